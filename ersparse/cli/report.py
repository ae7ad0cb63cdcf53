"""`ersparse report [folder] [--keep FOLDER]`: run folders become tables, plots and one page in <folder>/report."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ersparse.errors import UserError
from ersparse.report.analysis.groups import group
from ersparse.report.analysis.keep import keep
from ersparse.report.analysis.runs import read_runs
from ersparse.report.figures.plots import draw
from ersparse.report.figures.style import save
from ersparse.report.page import page
from ersparse.report.section import Section, section
from ersparse.storage.atomic import write_text


def main(arguments: Sequence[str]) -> int:
    """Writes the report, or with --keep small copies of the runs, and prints where.

    Raises:
        UserError: there is no such folder, it has no runs, or the report cannot be written.
    """
    parser = argparse.ArgumentParser("ersparse report", description="Run folders as tables, plots and one page.")
    parser.add_argument("folder", nargs="?", default="outputs", type=Path, help="outputs, unless given")
    parser.add_argument(
        "--keep", type=Path, metavar="FOLDER", help="copy the runs there instead, small, to be committed"
    )
    asked = parser.parse_args(arguments)
    root: Path = asked.folder
    if not root.is_dir():
        raise UserError(f"{root}: no such folder")
    runs, skipped = read_runs(root)
    if not runs:
        more = f"; {skipped[0].path}: {skipped[0].why}" if skipped else ""
        raise UserError(f"{root}: no run in it, each has a run.json{more}")
    sections = [section(name, groups) for name, groups in group(runs).items()]
    out = asked.keep or root / "report"
    try:
        if asked.keep:
            keep(root, runs, out)
        else:
            out.mkdir(exist_ok=True)
            svgs = {each.name: _write(each, root, out) for each in sections}
            write_text(out / "index.html", page(sections, skipped, svgs, root))
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror})") from None
    for line in skipped:
        print(f"skipped {root / line.path}: {line.why}")
    cells = sum(len(each.groups) for each in sections)
    print(f"{len(runs)} runs, {cells} configurations, {len(sections)} experiments; {len(skipped)} skipped")
    print(out if asked.keep else out / "index.html")
    return 0


def _write(each: Section, root: Path, out: Path) -> dict[str, str]:
    """The files of one experiment; returns its pictures."""
    write_text(out / f"{each.name}.md", each.markdown())
    write_text(out / f"{each.name}.tex", each.latex())
    for name, table in each.tables.items():
        write_text(out / f"{each.name}-{name}.csv", table.csv())
    figures = draw(each.tables, each.groups, root)
    return {name: save(figure, out / f"{each.name}-{name}") for name, figure in figures.items()}
