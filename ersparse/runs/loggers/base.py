"""The interface of a logger.

A new logger is a subclass of `RunLogger` in a file of its own, with its keys as fields, and one YAML file.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from ersparse.config.groups import TargetedSettings, build
from ersparse.config.schema import Settings
from ersparse.errors import UserError
from ersparse.locate import locate
from ersparse.runs.plan import Plan
from ersparse.runs.record import NetworkRecord

LAYER_COLUMNS = ("name", "size", "density", "drawn", "nonzero")


class RunLogger(TargetedSettings):
    """The keys of a logger, and what it shows of a run. Only rank 0 logs.

    Attributes:
        package: the Python package that it needs, if any.
        shows_masks: whether curves of mask changes are computed for it.
    """

    package: ClassVar[str | None] = None
    shows_masks: ClassVar[bool] = True

    def create(self, plan: Plan, record: NetworkRecord) -> Any:
        """Return a logger for Lightning's Trainer, or False for none."""
        raise NotImplementedError

    def describe_layers(self, logger: Any, record: NetworkRecord) -> None:
        """Show the layers: densities asked for, weights drawn, weights kept after repair."""

    def summarise(self, logger: Any, record: NetworkRecord) -> None:
        """Show the final metrics, sparsities and timing."""

    @contextmanager
    def finished(self, logger: Any) -> Iterator[None]:
        """End the logger's run with the block, however that ends."""
        yield


def logger_of(settings: Settings) -> RunLogger:
    """Return the logger that the settings name, with its keys checked.

    Raises:
        UserError: a key is unknown or out of range, `_target_` names no logger, or its package is not installed.
    """
    values = dict(settings.logger)
    name = str(values.get("name"))
    target = str(values.get("_target_") or f"ersparse.runs.loggers.{name}.{name.title()}Logger")
    kind = locate(target)
    if not (isinstance(kind, type) and issubclass(kind, RunLogger)):
        raise UserError(f"logger._target_={target}: must name a subclass of ersparse.runs.loggers.base.RunLogger")
    if kind.package and importlib.util.find_spec(kind.package) is None:
        raise UserError(f"logger={name}: is not installed; pip install {kind.package}, or logger=csv")
    if "_target_" not in values:  # written before loggers had one, when every logger had the keys of W&B
        values = {key: value for key, value in values.items() if key in kind.model_fields}
    return build(kind, values | {"_target_": target}, "logger.")


def layer_rows(record: NetworkRecord) -> list[list[Any]]:
    """Return a row of `LAYER_COLUMNS` for each layer."""
    return [[layer[column] for column in LAYER_COLUMNS] for layer in record.content["layers"]]
