"""One experiment of a report: its groups, and all that is said of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ersparse.report.analysis.groups import Group
from ersparse.report.paper import paper
from ersparse.report.tables.accuracy import differences, results
from ersparse.report.tables.draws import counters
from ersparse.report.tables.overview import Grid, grids
from ersparse.report.tables.writer import Table


@dataclass(frozen=True)
class Section:
    """One experiment.

    Attributes:
        name: of its files.
        grids: as the paper prints its tables, theirs below ours.
        tables: by the name of their files: "results", "differences", "counters".
    """

    name: str
    title: str
    notes: Sequence[str]
    groups: Sequence[Group]
    grids: Sequence[Grid]
    tables: dict[str, Table]

    def markdown(self) -> str:
        tables = [*(grid.table() for grid in self.grids), *self.tables.values()]
        return "\n".join([f"## {self.title}\n", *(f"{note}\n" for note in self.notes), *(t.markdown() for t in tables)])

    def latex(self) -> str:
        return "\n".join(grid.table().latex() for grid in self.grids)


def section(name: str, groups: Sequence[Group]) -> Section:
    """What there is to say of an experiment."""
    content = paper()["tables"].get(name, {})
    title = f"Table {name.removeprefix('table')}: {content['title']}" if content else name
    trained = [each for each in groups if each.kind == "accuracy"]
    drawn = [each for each in groups if each.kind == "draw"]
    tables = {}
    if trained:
        tables["results"] = results(trained, f"{title}: test accuracy, per cent")
        tables["differences"] = differences(trained, f"{title}: paired differences, points")
    if drawn:
        tables["counters"] = counters(drawn, f"{title}: masks as drawn")
    return Section(re.sub(r"[^\w.-]+", "_", name), title, content.get("notes", ()), groups, grids(tables), tables)
