"""The numbers that the paper prints, cell by cell: `paper.yaml` as values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml


@dataclass(frozen=True)
class Cell:
    """Where a number stands in the paper, in our words.

    Attributes:
        method, sparsity: options of these groups.
        level: sparsity of the source.
        final: sparsity in the end; the source's where the method keeps it.
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
        table: "table9".
        value: per cent of test accuracy, or a count where the table's measure is "pairs".
        pm: what stands behind the ±, in the same unit; None where nothing does.
        seeds: runs behind it, as the paper says.
    """

    table: str
    value: float
    pm: float | None
    seeds: int


@cache
def paper() -> Mapping[str, Any]:
    """`paper.yaml` as it is: source, notes, recipes, tables."""
    return yaml.safe_load(Path(__file__).with_name("paper.yaml").read_text())  # type: ignore[no-any-return]


@cache
def printed(table: str) -> dict[Cell, Printed]:
    """The numbers of one table, without those that are not printed.

    Raises:
        KeyError: the paper has no such table of numbers.
    """
    return {cell: number for cell, number in _numbers(table) if number is not None}


def _numbers(table: str) -> Iterator[tuple[Cell, Printed | None]]:
    content = paper()["tables"][table]
    places = content.get("pairs") or [(level, level) for level in content["sparsity"]]
    for method, rows in content["values"].items():
        for sparsity, values in rows.items():
            spreads = content.get("pm", {}).get(method, {}).get(sparsity, [None] * len(places))
            for (level, final), value, pm in zip(places, values, spreads, strict=True):
                cell = Cell(content["model"], content["dataset"], method, sparsity, level, final)
                yield cell, None if value is None else Printed(table, value, pm, content["seeds"])


@cache
def everything() -> dict[Cell, Printed]:
    """All numbers. Where two tables print one cell, that with a spread, or else the first."""
    found: dict[Cell, Printed] = {}
    for table in paper()["tables"]:
        for cell, number in printed(table).items():
            if cell not in found or (found[cell].pm is None and number.pm is not None):
                found[cell] = number
    return found
