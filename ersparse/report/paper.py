"""The numbers that papers print, cell by cell, read from YAML files. Imports nothing of the report.

`paper.yaml` has those of the paper that this project reproduces, `baselines.yaml` those of other papers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
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
    return {**paper()["tables"], **other_tables()}


def other_tables() -> Mapping[str, Any]:
    """Return the tables of other papers by their keys; presets that run a table have its name."""
    return _read("baselines.yaml")["tables"]  # type: ignore[no-any-return]


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


def number_of(cell: PrintedCell, experiment: str, outcome: bool = False) -> Printed | None:
    """Return the number that is printed for a cell; None if there is none.

    Args:
        cell: the configuration.
        experiment: the preset that its runs belong to. If another paper's table has this name, its number counts before
            those of other tables, so that all runs of a preset are compared with one source.
        outcome: whether `cell.final` is an outcome of training. Then the number printed for the nearest final sparsity
            is returned, if the densities differ by less than a tenth.
    """
    own = printed(experiment) if experiment in other_tables() else {}
    if not outcome:
        return own.get(cell) or everything().get(cell)
    numbers = everything() | own
    near = [other for other in numbers if replace(other, final=cell.final) == cell and _close(other.final, cell.final)]
    return numbers[min(near, key=lambda other: abs(other.final - cell.final))] if near else None


def _close(printed_sparsity: float, ours: float) -> bool:
    return abs(printed_sparsity - ours) < 0.1 * (1 - printed_sparsity)
