"""What makes two runs the same: a hash over everything that decides the science, and nothing else.

Left out: where and how a run happens (fields marked `NotIdentity`), the seed, which names the folder, sparsity keys
that the chosen option does not take, and keys added later that are at their default. What comes from a file enters by
content.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from ersparse.methods.base import Method
from ersparse.settings import Settings, Sparsity

DRAWING_KEYS = ("sampling", "flow")  # of every option that draws at random


def describe(settings: Settings, method: Method, contents: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a run's settings that decides its results, as plain values.

    Args:
        contents: what was read from the files that the settings name: "init_from" and "file", as hashes or None.
    """
    sparsity = _sparsity(settings.sparsity) if contents.get("kind") != "ticket" else _ticket(settings.sparsity)
    if "file" in sparsity:
        sparsity["file"] = contents["file"]
    return {
        "model": identity_fields(settings.model) | {"init_from": contents["init_from"]},
        "dataset": identity_fields(settings.dataset),
        "sparsity": sparsity,
        "method": identity_fields(method),
        "optimizer": identity_fields(settings.optimizer),
        "epochs": method.epochs(settings),
        "variant": settings.variant,
        "seeds": {key: seed for key, seed in settings.seeds.model_dump().items() if seed is not None},
    }


def run_hash(description: Mapping[str, Any]) -> str:
    """SHA-256 of the description as canonical JSON, in hexadecimal; folders carry its first eight digits."""
    canonical = json.dumps(description, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def identity_fields(group: BaseModel) -> dict[str, Any]:
    """The fields of a group that decide results. The name stands for `_target_`, which may move when code does."""
    found = {}
    for key, field in type(group).model_fields.items():
        marks = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
        value = getattr(group, key)
        later = "since" in marks and value == marks["since"]
        if key != "target" and marks.get("identity", True) and not later:
            found[key] = value
    return found


def applicable(sparsity: Sparsity) -> list[str]:
    """The keys that the option takes: the keyword arguments of its function, and how masks are drawn from it."""
    arguments = [name for name in inspect.signature(sparsity.resolve()).parameters if name not in ("layers", "density")]
    return arguments if sparsity.name == "dense" else [*arguments, *DRAWING_KEYS]


def takes_density(sparsity: Sparsity) -> bool:
    """Whether the option is told the global density, by `level` or `budget`, rather than bringing its own."""
    return "density" in inspect.signature(sparsity.resolve()).parameters


def _sparsity(sparsity: Sparsity) -> dict[str, Any]:
    found = {key: getattr(sparsity, key) for key in ["name", *applicable(sparsity)]}
    if takes_density(sparsity):
        asked = "level" if sparsity.budget is None else "budget"
        found[asked] = getattr(sparsity, asked)
    return found


def _ticket(sparsity: Sparsity) -> dict[str, Any]:
    return {"name": "ticket", "control": sparsity.control}
