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
from typing import Any, NamedTuple

from pydantic import BaseModel

from ersparse.config.schema import Settings, SparsitySettings
from ersparse.methods.base import Method

DRAWING_KEYS = ("sampling", "flow")  # of every option that draws at random
GIVEN = (
    "layers",
    "density",
    "network",
    "count",
    "examples",
    "shape",
    "seed",
    "invert",
)  # to an option's function by a run


def describe(settings: Settings, method: Method, contents: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a run's settings that decides its results, as plain values.

    Args:
        contents: what was read from the files that the settings name: "init_from" and "file", as hashes or None; and
            "run", the hash of the run whose densities are taken.
    """
    sparsity = _sparsity(settings.sparsity) if contents.get("kind") != "ticket" else _ticket(settings.sparsity)
    for key in ("file", "run"):
        if key in sparsity:
            sparsity[key] = contents[key]
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


class Arguments(NamedTuple):
    """What the function of a sparsity option takes.

    Attributes:
        given: what a run gives it: layers and density, or a network and a number of weights.
        keys: the `sparsity.` keys.
    """

    given: list[str]
    keys: list[str]


def arguments_of(sparsity: SparsitySettings) -> Arguments:
    """From the signature of the option's function."""
    names = inspect.signature(sparsity.resolve()).parameters
    return Arguments([name for name in names if name in GIVEN], [name for name in names if name not in GIVEN])


def applicable(sparsity: SparsitySettings) -> list[str]:
    """The keys that the option takes: those of its function, and how masks come from its densities."""
    takes = arguments_of(sparsity)
    if sparsity.name == "dense":
        return takes.keys
    if not (is_earned(sparsity) or takes.keys == ["file"]):
        return [*takes.keys, *DRAWING_KEYS]
    control = ["control"] if sparsity.control != "none" else []
    keys = ["run"] if sparsity.run else takes.keys
    return [*keys, *(["keep_mask"] if sparsity.keep_mask else DRAWING_KEYS), *control]


def is_earned(sparsity: SparsitySettings) -> bool:
    """Whether a pruner chooses the densities, by looking at the network."""
    return "network" in arguments_of(sparsity).given


def takes_density(sparsity: SparsitySettings) -> bool:
    """Whether the option is told the global density, by `level` or `budget`, rather than bringing its own."""
    return sparsity.run is not None or bool({"density", "count"} & set(arguments_of(sparsity).given))


def _sparsity(sparsity: SparsitySettings) -> dict[str, Any]:
    fields = identity_fields(sparsity)
    found = {key: fields[key] for key in ["name", *applicable(sparsity)] if key in fields}
    if takes_density(sparsity):
        asked = "level" if sparsity.budget is None else "budget"
        found[asked] = getattr(sparsity, asked)
    return found


def _ticket(sparsity: SparsitySettings) -> dict[str, Any]:
    return {"name": "ticket", "control": sparsity.control}
