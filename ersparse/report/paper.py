"""The numbers that the paper prints, cell by cell, read from `paper.yaml`. Imports nothing of the report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml


@dataclass(frozen=True)
class PrintedCell:
    """Configuration that a printed number belongs to, in this project's options.

    Attributes:
        method, sparsity: options of the groups `method` and `sparsity`.
        level: sparsity of the source network.
        final: sparsity at the end of training; `level` if the method keeps it.
    """

    model: str
    dataset: str
    method: str
    sparsity: str
    level: float
    final: float


@dataclass(frozen=True)
class Printed:
    """One printed number.

    Attributes:
        table: key of the table in `paper.yaml`, such as "table9".
        value: test accuracy in per cent, or a count if the table's measure is "pairs".
        pm: the number after the ±, in the same unit; None if none is printed.
        seeds: number of runs that the paper states.
    """

    table: str
    value: float
    pm: float | None
    seeds: int


@cache
def paper() -> Mapping[str, Any]:
    """Return the content of `paper.yaml`: source, notes, recipes, tables."""
    return yaml.safe_load(Path(__file__).with_name("paper.yaml").read_text())  # type: ignore[no-any-return]


@cache
def printed(table: str) -> dict[PrintedCell, Printed]:
    """Return the numbers of one table, without the cells that the paper leaves empty.

    Raises:
        KeyError: `paper.yaml` has no such table.
    """
    return {cell: number for cell, number in _numbers(table) if number is not None}


def _numbers(table: str) -> Iterator[tuple[PrintedCell, Printed | None]]:
    content = paper()["tables"][table]
    places = content.get("pairs") or [(level, level) for level in content["sparsity"]]
    for method, rows in content["values"].items():
        for sparsity, values in rows.items():
            spreads = content.get("pm", {}).get(method, {}).get(sparsity, [None] * len(places))
            for (level, final), value, pm in zip(places, values, spreads, strict=True):
                cell = PrintedCell(content["model"], content["dataset"], method, sparsity, level, final)
                yield cell, None if value is None else Printed(table, value, pm, content["seeds"])


@cache
def everything() -> dict[PrintedCell, Printed]:
    """Return all printed numbers; of two tables with the same cell, the one with a ±, or else the first."""
    found: dict[PrintedCell, Printed] = {}
    for table in paper()["tables"]:
        for cell, number in printed(table).items():
            if cell not in found or (found[cell].pm is None and number.pm is not None):
                found[cell] = number
    return found
