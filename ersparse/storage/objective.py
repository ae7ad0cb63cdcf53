"""Objectives: the figures of a run that a search optimises. None of them is of the test set."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ersparse.errors import UserError

FLOPS = "flops"  # of one forward pass of one image, of the kept weights
TEST, VALIDATION = (re.compile(rf"(^|[./_]){part}") for part in ("test", "val"))


def check_objective(key: str, name: str, validation: float) -> None:
    """Check that an objective is not a figure of the test set, and that there are validation images if it needs them.

    Args:
        key: the objective, as `value_of` takes it.
        name: what messages call it.
        validation: `dataset.validation` of the run.

    Raises:
        UserError: it is, or there are none.
    """
    if TEST.search(key):
        raise UserError(f"{name}={key}: must not be a figure of the test set, as val/acc is not")
    if VALIDATION.search(key) and validation == 0:
        raise UserError(f"{name}={key}: needs validation images; dataset.validation must be above 0, such as 0.1")


def value_of(record: Mapping[str, Any], key: str, name: str) -> float | None:
    """Return an objective of a finished run; None if it is not finite.

    Args:
        record: the content of run.json.
        key: "flops"; a metric of the last epoch, such as val/acc; or a number elsewhere in the record, with dots, such
            as sparsity.realised.
        name: what messages call the objective.

    Raises:
        UserError: the record has no such number.
    """
    if key == FLOPS:
        return forward_flops(record)
    value: Any = record["metrics"] | record
    for part in [key] if key in value else key.split("."):
        if not isinstance(value, Mapping) or part not in value:
            raise UserError(f"{name}={key}: run.json has no such number; must be one of {', '.join(_figures(record))}")
        value = value[part]
    if isinstance(value, bool) or not isinstance(value, int | float | None):
        raise UserError(f"{name}={key}: is no number in run.json; must be one of {', '.join(_figures(record))}")
    return None if value is None else float(value)


def forward_flops(record: Mapping[str, Any]) -> float:
    """Return the FLOPs of the kept weights in one forward pass of one image; a multiply-add counts as two."""
    return float(sum(2 * layer["nonzero"] * (layer.get("positions") or 0) for layer in record["layers"]))


def _figures(record: Mapping[str, Any]) -> list[str]:
    """Return the usual objectives that a record has."""
    nested = [f"{group}.{key}" for group in ("sparsity", "timing") for key in record.get(group) or {}]
    return [key for key in [*record["metrics"], FLOPS, *nested] if not TEST.search(key)]
