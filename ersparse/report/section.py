"""One experiment of a report: its groups, tables and grids."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ersparse.report.analysis.groups import SeedGroup
from ersparse.report.paper import tables as printed_tables
from ersparse.report.tables.accuracy import differences, results
from ersparse.report.tables.grids import TableGrid, grids
from ersparse.report.tables.mask_counts import counters
from ersparse.storage.tables import Row, Table


@dataclass(frozen=True)
class Section:
    """One experiment.

    Attributes:
        name: prefix of its file names.
        notes: remarks on the paper's table.
        grids: tables in the paper's layout.
        tables: file name -> table: "results", "differences", "counters".
    """

    name: str
    title: str
    notes: Sequence[str]
    groups: Sequence[SeedGroup]
    grids: Sequence[TableGrid]
    tables: dict[str, Table]

    def rows(self, name: str) -> Sequence[Row]:
        """Return the rows of a table; empty if the section does not have it."""
        return self.tables[name].rows if name in self.tables else []

    def markdown(self) -> str:
        """Return title, notes, grids and tables as Markdown."""
        tables = [*(grid.table() for grid in self.grids), *self.tables.values()]
        return "\n".join([f"## {self.title}\n", *(f"{note}\n" for note in self.notes), *(t.markdown() for t in tables)])

    def latex(self) -> str:
        """Return the grids as LaTeX tables."""
        return "\n".join(grid.latex() for grid in self.grids)


def section(name: str, groups: Sequence[SeedGroup]) -> Section:
    """Return the section of an experiment, with a table for every kind of run that it has."""
    content = printed_tables().get(name, {})
    title = content.get("title", name)
    if name.startswith("table") and content:
        title = f"Table {name.removeprefix('table')}: {title}"
    trained = [group for group in groups if group.kind == "accuracy"]
    drawn = [group for group in groups if group.kind == "draw"]
    tables = {}
    if trained:
        tables["results"] = results(trained, f"{title}: test accuracy, per cent")
        tables["differences"] = differences(trained, f"{title}: paired differences, points")
    if drawn:
        tables["counters"] = counters(drawn, f"{title}: masks as drawn")
    return Section(re.sub(r"[^\w.-]+", "_", name), title, content.get("notes", ()), groups, grids(tables), tables)
