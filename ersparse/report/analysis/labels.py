"""Names of groups and sparsities: what a table row, a line of a figure and a cell of the page are called."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ersparse.report.analysis.groups import SeedGroup
from ersparse.report.analysis.settings import varying_keys
from ersparse.storage.tables import Row

NAMED = {"model.name", "dataset.name", "sparsity.name", "method.name"}  # keys that have a column in every table


def setting_keys(groups: Sequence[SeedGroup]) -> list[str]:
    """Return the keys that differ between the groups and have no column of their own."""
    return [key for key in varying_keys([group.config for group in groups]) if key not in NAMED]


def identity_row(group: SeedGroup, keys: Sequence[str], label: str) -> Row:
    """Return the values that identify a group: its names and sparsities, the settings `keys`, label and hash."""
    return {
        "model": group.model, "dataset": group.dataset, "method": group.method, "sparsity": group.sparsity,
        "level": group.level, "final": group.final, **{key: setting(group, key) for key in keys},
        "label": label, "hash": group.hash[:8], "unfinished": unfinished_seeds(group),
    }  # fmt: skip


def unfinished_seeds(group: SeedGroup) -> str | None:
    """Return the seeds without a result, "seed 2 failed, seed 3 missing"; None if all are finished."""
    words = [f"seed {run.seed} {run.state}" for run in group.unfinished]
    return ", ".join(words + [f"seed {seed} missing" for seed in group.missing]) or None


def labels(groups: Sequence[SeedGroup]) -> dict[str, str]:
    """Return hash -> label, unique among groups of the same sparsities: "erk", or "erk, rigl, flow=none"."""
    left_out = NAMED - {"method.name"}
    keys = [key for key in varying_keys([group.config for group in groups]) if key not in left_out]
    return {
        group.hash: ", ".join([group.sparsity, *filter(None, (_short_setting(group, key) for key in keys))])
        for group in groups
    }


def _short_setting(group: SeedGroup, key: str) -> str:
    """Return a setting as "lr=0.1"; empty if it is off, or if the group's method does not have it."""
    name, value = key.rpartition(".")[2], setting(group, key)
    if value in ("null", "false") or (name, value) == ("control", "none"):
        return ""
    return value if key == "method.name" else name if value == "true" else f"{name}={value}"


def setting(group: SeedGroup, key: str) -> str:
    """Return the value of a key as the command line writes it."""
    value: Any = group.config.get(key)
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def sparsity_range(level: float, final: float) -> str:
    """Return "0.9", or "0.5 → 0.9" if source sparsity and final sparsity differ."""
    return rounded(level) if level == final else f"{rounded(level)} → {rounded(final)}"


def rounded(sparsity: float) -> str:
    """Format a sparsity with four significant digits; one that follows from a budget has many more."""
    return f"{sparsity:.4g}"
