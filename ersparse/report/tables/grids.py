"""Tables in the paper's layout: one line per kind of densities, one column per sparsity, the paper's values below."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ersparse.report.analysis.compare import AGREES, DIFFERS, OTHER, assumptions
from ersparse.report.analysis.labels import sparsity_range
from ersparse.storage.tables import MISSING, Column, Row, Table, decimals

MARKS = {AGREES: "✓", DIFFERS: "✗", OTHER: "○"}
LEGEND = "mean ± sample standard deviation (n); ✓ agrees with the paper, ✗ differs, ○ other recipe than the paper's."
CHANCE = (
    "chance: expectation by the closed form; z: z-score of the sum over seeds, the paper's in the line paper, ours in "
    "the line chance."
)
UNSHOWN_SD = 0.005  # a standard deviation that would print as 0.00: z-scores are then left out


@dataclass(frozen=True)
class GridCell:
    """One cell of a grid: what it says of one group.

    Attributes:
        row: the group's row in the table of results or of counts.
        ours, paper, chance: formatted values of our runs, the paper and the closed form; None without a value.
    """

    row: Row
    ours: str | None
    paper: str | None
    chance: str | None

    @property
    def mark(self) -> str:
        """Sign of the verdict; empty where nothing can be compared."""
        return MARKS.get(self.row.get("verdict") or "", "")


@dataclass(frozen=True)
class TableGrid:
    """The table of one network on one data set.

    Attributes:
        columns: sparsities, in the order of the final one.
        cells: label -> column -> cell.
    """

    title: str
    columns: list[str]
    cells: dict[str, dict[str, GridCell]]

    def table(self) -> Table:
        """Return a plain table: a line for our values, then lines for the paper's and for the closed form's."""
        rows: list[dict[str, Any]] = []
        for label, cells in self.cells.items():
            rows.append({"label": label} | {k: f"{c.ours or MISSING} {c.mark}".strip() for k, c in cells.items()})
            for name in ("paper", "chance"):
                line = {k: text for k, c in cells.items() if (text := getattr(c, name))}
                rows += [{"label": f"{label}, {name}"} | line] if line else []
        columns = [Column("label", "", number=False), *(Column(name, name) for name in self.columns)]
        return Table(self.title, columns, rows, [LEGEND, *([CHANCE] if self.has_chance else []), *self._assumptions()])

    def latex(self) -> str:
        """Return the table as LaTeX, which has no notes: what is assumed for the paper's numbers is in the caption."""
        table = self.table()
        return replace(table, title=". ".join([table.title, *self._assumptions()])).latex()

    def _assumptions(self) -> list[str]:
        return assumptions([cell.row for cells in self.cells.values() for cell in cells.values()])

    @property
    def has_chance(self) -> bool:
        """Whether a cell has an expectation by the closed form."""
        return any(cell.chance for cells in self.cells.values() for cell in cells.values())


def grids(tables: Mapping[str, Table]) -> list[TableGrid]:
    """Return the grids of an experiment's tables "results" and "counters", one per network and data set."""
    found: list[TableGrid] = []
    for name, cell_of in (("results", _accuracy_cell), ("counters", _count_cell)):
        if name not in tables:
            continue
        networks: dict[tuple[str, str], list[Row]] = {}
        for row in tables[name].rows:
            networks.setdefault((row["model"], row["dataset"]), []).append(row)
        for (model, dataset), rows in networks.items():
            title = tables[name].title if len(networks) == 1 else f"{tables[name].title}, {model} on {dataset}"
            found.append(_grid(title, [cell_of(row) for row in rows]))
    return found


def _grid(title: str, found: list[GridCell]) -> TableGrid:
    columns = dict.fromkeys(_column(cell.row) for cell in sorted(found, key=lambda cell: _order(cell.row)))
    cells: dict[str, dict[str, GridCell]] = {}
    for cell in found:
        cells.setdefault(cell.row["label"], {})[_column(cell.row)] = cell
    return TableGrid(title, list(columns), cells)


def _column(row: Row) -> str:
    return sparsity_range(row["level"], row["final"])


def _order(row: Row) -> tuple[float, bool, float]:
    """Sort by final sparsity; networks that have it from the start come first."""
    return row["final"], row["final"] != row["level"], row["level"]


def _accuracy_cell(row: Row) -> GridCell:
    paper = _with_sd(row["printed"], row["printed_pm"])
    return GridCell(row, _with_n(_with_sd(row["mean"], row["sd"]), row), paper, None)


def _count_cell(row: Row) -> GridCell:
    ours = _with_n(_with_sd(row.get("pairs"), row.get("pairs_sd")), row)
    constant = (row.get("expected_sd") or 0.0) < UNSHOWN_SD
    return GridCell(
        row,
        ours,
        _with_z(row.get("printed"), None if constant else row.get("printed_z")),
        _with_z(row.get("expected"), None if constant else row.get("z")),
    )


def _with_n(text: str | None, row: Row) -> str | None:
    return f"{text} ({row['n']})" if text else None


def _with_z(value: float | None, z: float | None) -> str | None:
    if value is None:
        return None
    return f"{value:.2f}" + ("" if z is None else f" (z {decimals(1, signed=True)(z)})")


def _with_sd(value: float | None, sd: float | None) -> str | None:
    if value is None:
        return None
    return f"{value:.2f}" + ("" if sd is None else f" ± {sd:.2f}")
