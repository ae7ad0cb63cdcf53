"""`ersparse report <folder>`: run folders become tables, plots and one page, below <folder>/report."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ersparse.errors import UserError
from ersparse.files import write_text
from ersparse.report.accuracy import differences, results
from ersparse.report.draws import counters
from ersparse.report.glance import Grid, grids
from ersparse.report.groups import Group, group
from ersparse.report.paper import paper
from ersparse.report.runs import Skipped, read_runs
from ersparse.report.tables import Table


@dataclass(frozen=True)
class Section:
    """One experiment.

    Attributes:
        grids: tables as the paper prints them, ours above theirs.
        tables: by the name of their files: "results", "differences", "counters".
    """

    name: str
    title: str
    notes: Sequence[str]
    groups: Sequence[Group]
    grids: Sequence[Grid]
    tables: dict[str, Table]


def main(arguments: Sequence[str]) -> int:
    """Writes the report, and prints where.

    Raises:
        UserError: there is no such folder, it has no runs, or it cannot be written to.
    """
    parser = argparse.ArgumentParser("ersparse report", description="Run folders as tables, plots and one page.")
    parser.add_argument("folder", nargs="?", default="outputs", type=Path, help="outputs, unless given")
    root = parser.parse_args(arguments).folder
    sections, skipped = read_sections(root)
    out = root / "report"
    try:
        out.mkdir(exist_ok=True)
        for section in sections:
            _write(section, out)
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror})") from None
    for line in skipped:
        print(f"skipped {root / line.path}: {line.why}")
    runs = sum(len(each.runs) for section in sections for each in section.groups)
    cells = sum(len(section.groups) for section in sections)
    print(f"{runs} runs, {cells} configurations, {len(sections)} experiments; {len(skipped)} skipped")
    print(out)
    return 0


def read_sections(root: Path) -> tuple[list[Section], list[Skipped]]:
    """Every experiment below a folder, and what had to be left out.

    Raises:
        UserError: there is no such folder, or no run in it that can be read.
    """
    if not root.is_dir():
        raise UserError(f"{root}: no such folder")
    runs, skipped = read_runs(root)
    if not runs:
        more = f"; {skipped[0].path}: {skipped[0].why}" if skipped else ""
        raise UserError(f"{root}: no run in it, each has a run.json{more}")
    return [_section(name, groups) for name, groups in group(runs).items()], skipped


def _section(name: str, groups: Sequence[Group]) -> Section:
    content = paper()["tables"].get(name, {})
    number = name.removeprefix("table")
    title = f"Table {number}: {content['title']}" if content else name
    trained = [each for each in groups if each.kind == "accuracy"]
    drawn = [each for each in groups if each.kind == "draw"]
    tables = {}
    if trained:
        tables["results"] = results(trained, f"{title}: test accuracy, per cent")
        tables["differences"] = differences(trained, f"{title}: paired differences, points")
    if drawn:
        tables["counters"] = counters(drawn, f"{title}: channels without an edge")
    return Section(name, title, content.get("notes", ()), groups, grids(tables), tables)


def _write(section: Section, out: Path) -> None:
    short = [grid.table() for grid in section.grids]
    tables = [*short, *section.tables.values()]
    text = [f"## {section.title}\n", *(f"{note}\n" for note in section.notes), *(t.markdown() for t in tables)]
    write_text(out / f"{section.name}.md", "\n".join(text))
    write_text(out / f"{section.name}.tex", "\n".join(table.latex() for table in short))
    for name, table in section.tables.items():
        write_text(out / f"{section.name}-{name}.csv", table.csv())
