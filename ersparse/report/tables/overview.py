"""Tables as the paper prints them: a line for each kind of density, a column for each sparsity, theirs below ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ersparse.report.analysis.compare import AGREES, DIFFERS, OTHER
from ersparse.report.tables.writer import NOTHING, Column, Row, Table, decimals

MARKS = {AGREES: "✓", DIFFERS: "✗", OTHER: "○"}
LEGEND = "mean ± sample deviation (n); ✓ agrees with the paper, ✗ differs, ○ is not the paper's recipe."
CHANCE = (
    "chance: what the closed form expects; z: how far from it the paper's sum over seeds lies, and ours, in deviations."
)


@dataclass(frozen=True)
class Place:
    """What one cell of such a table says of one group.

    Attributes:
        ours, paper, chance: in words; None where there is no number.
    """

    row: Row
    ours: str | None
    paper: str | None
    chance: str | None

    @property
    def mark(self) -> str:
        return MARKS.get(self.row.get("verdict") or "", "")


@dataclass(frozen=True)
class Grid:
    """One network on one data set.

    Attributes:
        places: label -> column -> cell.
    """

    title: str
    columns: list[str]
    places: dict[str, dict[str, Place]]

    def table(self) -> Table:
        """As plain lines: ours, then, where they are known, the paper's and what chance gives."""
        rows: list[dict[str, Any]] = []
        for label, cells in self.places.items():
            rows.append({"label": label} | {k: f"{c.ours or NOTHING} {c.mark}".strip() for k, c in cells.items()})
            for name in ("paper", "chance"):
                line = {k: text for k, c in cells.items() if (text := getattr(c, name))}
                rows += [{"label": f"{label}, {name}"} | line] if line else []
        columns = [Column("label", "", number=False), *(Column(name, name) for name in self.columns)]
        drawn = any(cell.chance for cells in self.places.values() for cell in cells.values())
        return Table(self.title, columns, rows, [LEGEND, CHANCE] if drawn else [LEGEND])


def grids(tables: Mapping[str, Table]) -> list[Grid]:
    """The grids of an experiment's "results" and "counters"."""
    found: list[Grid] = []
    for name, place in (("results", _accuracy), ("counters", _pairs)):
        if name not in tables:
            continue
        kinds: dict[tuple[str, str], list[Row]] = {}
        for row in tables[name].rows:
            kinds.setdefault((row["model"], row["dataset"]), []).append(row)
        for (model, dataset), rows in kinds.items():
            title = tables[name].title if len(kinds) == 1 else f"{tables[name].title}, {model} on {dataset}"
            found.append(_grid(title, [place(row) for row in rows]))
    return found


def _grid(title: str, cells: list[Place]) -> Grid:
    columns = dict.fromkeys(_column(cell.row) for cell in sorted(cells, key=lambda cell: _order(cell.row)))
    places: dict[str, dict[str, Place]] = {}
    for cell in cells:
        places.setdefault(cell.row["label"], {})[_column(cell.row)] = cell
    return Grid(title, list(columns), places)


def _column(row: Row) -> str:
    return where(row["level"], row["final"])


def _order(row: Row) -> tuple[float, bool, float]:
    """By the sparsity in the end; networks that have it from the start come first."""
    return row["final"], row["final"] != row["level"], row["level"]


def where(level: float, final: float) -> str:
    """The sparsity, or from which to which."""
    return rounded(level) if level == final else f"{rounded(level)} → {rounded(final)}"


def rounded(sparsity: float) -> str:
    """To four digits: one that a budget comes to has many."""
    return f"{sparsity:.4g}"


def _accuracy(row: Row) -> Place:
    ours = _with_spread(row["mean"], row["sd"], 2)
    return Place(
        row,
        f"{ours} ({row['n']})" if ours else None,
        _with_spread(row["printed"], row["printed_pm"], 2),
        None,
    )


def _pairs(row: Row) -> Place:
    ours = _with_spread(row.get("pairs"), row.get("pairs_sd"), 2)
    certain = (row.get("expected_sd") or 0.0) < 0.005  # a spread of 0.00: deviations would say nothing
    return Place(
        row,
        f"{ours} ({row['n']})" if ours else None,
        _with_z(row.get("printed"), None if certain else row.get("printed_z")),
        _with_z(row.get("expected"), None if certain else row.get("z")),
    )


def _with_z(value: float | None, z: float | None) -> str | None:
    if value is None:
        return None
    return f"{value:.2f}" + ("" if z is None else f" (z {decimals(1, signed=True)(z)})")


def _with_spread(value: float | None, spread: float | None, digits: int) -> str | None:
    if value is None:
        return None
    return f"{value:.{digits}f}" + ("" if spread is None else f" ± {spread:.{digits}f}")
