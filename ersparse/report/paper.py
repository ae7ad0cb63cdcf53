"""The numbers that papers print, cell by cell, read from YAML files. Imports nothing of the report.

`paper.yaml` has those of the paper that this project reproduces, `baselines.yaml` those of other papers.
"""

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
        variant: "sign_in", "pilot" or "ham" if the weights are trained in this way.
    """

    model: str
    dataset: str
    method: str
    sparsity: str
    level: float
    final: float
    variant: str = ""


@dataclass(frozen=True)
class Printed:
    """One printed number.

    Attributes:
        table: key of the table, such as "table9".
        value: test accuracy in per cent, or a count if the table's measure is "pairs".
        pm: the number after the ±, in the same unit; None if none is printed.
        seeds: number of runs that the paper states, unless `assumption` says otherwise.
    """

    table: str
    value: float
    pm: float | None
    seeds: int


@cache
def paper() -> Mapping[str, Any]:
    """Return the content of `paper.yaml`: source, notes, recipes, tables."""
    return _read("paper.yaml")


@cache
def _read(name: str) -> Mapping[str, Any]:
    return yaml.safe_load(Path(__file__).with_name(name).read_text("utf-8"))  # type: ignore[no-any-return]


def tables() -> Mapping[str, Any]:
    """Return the tables of all papers by their keys, those of the paper first."""
    return {**paper()["tables"], **_read("baselines.yaml")["tables"]}


def recipe_of(table: str) -> Mapping[str, Any]:
    """Return the settings that a table's paper states."""
    recipes = {**paper()["recipes"], **_read("baselines.yaml")["recipes"]}
    return recipes[tables()[table]["recipe"]]  # type: ignore[no-any-return]


def assumption(table: str) -> str | None:
    """Return in one sentence what is assumed for the numbers of a table; None if its paper states everything."""
    content = tables()[table]
    return f"Numbers of {content['title']}: {content['assumed']}." if "assumed" in content else None


@cache
def printed(table: str) -> dict[PrintedCell, Printed]:
    """Return the numbers of one table, without the cells that the paper leaves empty.

    Raises:
        KeyError: there is no such table.
    """
    return {cell: number for cell, number in _numbers(table) if number is not None}


def _numbers(table: str) -> Iterator[tuple[PrintedCell, Printed | None]]:
    content = tables()[table]
    places = content.get("pairs") or [(level, level) for level in content["sparsity"]]
    for name, rows in content["values"].items():
        method, _, variant = name.partition("+")
        for sparsity, values in rows.items():
            spreads = content.get("pm", {}).get(name, {}).get(sparsity, [None] * len(places))
            for (level, final), value, pm in zip(places, values, spreads, strict=True):
                cell = PrintedCell(content["model"], content["dataset"], method, sparsity, level, final, variant)
                yield cell, None if value is None else Printed(table, value, pm, content["seeds"])


@cache
def everything() -> dict[PrintedCell, Printed]:
    """Return all printed numbers; of two tables with the same cell, the one with a ±, or else the first."""
    found: dict[PrintedCell, Printed] = {}
    for table in tables():
        for cell, number in printed(table).items():
            if cell not in found or (found[cell].pm is None and number.pm is not None):
                found[cell] = number
    return found
