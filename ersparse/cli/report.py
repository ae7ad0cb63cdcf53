"""`ersparse report [folder] [--keep FOLDER]`: write tables, figures and one page of run folders to <folder>/report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ersparse.cli.arguments import CommandParser, check_folder
from ersparse.errors import UserError
from ersparse.report.analysis.groups import group_by_experiment
from ersparse.report.analysis.runs import Run, Skipped, read_runs
from ersparse.report.figures.plots import draw_figures
from ersparse.report.figures.style import save
from ersparse.report.keep import keep
from ersparse.report.page import page
from ersparse.report.section import Section, section
from ersparse.storage.atomic import write_text


def main(arguments: Sequence[str]) -> int:
    """Write the report, or with --keep small copies of the runs, and print where it is.

    Raises:
        UserError: there is no such folder, it has no runs, or the output cannot be written.
    """
    asked = _parser().parse_args(arguments)
    root: Path = asked.folder
    runs, skipped = _read(root)
    sections = [section(name, groups) for name, groups in group_by_experiment(runs).items()]
    out = asked.keep or root / "report"
    try:
        if asked.keep:
            keep(root, runs, out)
        else:
            _write(sections, skipped, root, out)
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror})") from None
    for line in skipped:
        print(f"skipped {root / line.path}: {line.why}")
    configurations = sum(len(each.groups) for each in sections)
    print(f"{len(runs)} runs, {configurations} configurations, {len(sections)} experiments; {len(skipped)} skipped")
    print(out if asked.keep else out / "index.html")
    return 0


def _parser() -> CommandParser:
    parser = CommandParser("ersparse report", description="Write run folders as tables, figures and one page.")
    parser.add_argument("folder", nargs="?", default="outputs", type=Path, help="default: outputs")
    parser.add_argument(
        "--keep", type=Path, metavar="FOLDER", help="write copies that are small enough to be committed there instead"
    )
    return parser


def _read(root: Path) -> tuple[list[Run], list[Skipped]]:
    check_folder(root)
    runs, skipped = read_runs(root)
    if not runs:
        more = f"; {skipped[0].path}: {skipped[0].why}" if skipped else ""
        raise UserError(f"{root}: no run in it, each has a run.json{more}")
    return runs, skipped


def _write(sections: Sequence[Section], skipped: Sequence[Skipped], root: Path, out: Path) -> None:
    out.mkdir(exist_ok=True)
    svgs = {each.name: _write_section(each, root, out) for each in sections}
    write_text(out / "index.html", page(sections, skipped, svgs, root))


def _write_section(each: Section, root: Path, out: Path) -> dict[str, str]:
    """Write the files of one experiment; return figure name -> SVG."""
    write_text(out / f"{each.name}.md", each.markdown())
    write_text(out / f"{each.name}.tex", each.latex())
    for name, table in each.tables.items():
        write_text(out / f"{each.name}-{name}.csv", table.csv())
    figures = draw_figures(each.rows("results"), each.rows("counters"), each.groups, root)
    return {name: save(figure, out / f"{each.name}-{name}") for name, figure in figures.items()}
