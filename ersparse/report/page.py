"""The report as one self-contained HTML page: verdicts, tables, figures, and every run behind them."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2

from ersparse.report.analysis.compare import AGREES, DIFFERS, OTHER, UNKNOWN
from ersparse.report.analysis.groups import SeedGroup
from ersparse.report.analysis.labels import sparsity_range
from ersparse.report.analysis.runs import Run, Skipped, read_curve
from ersparse.report.figures.plots import caption
from ersparse.report.section import Section
from ersparse.report.tables.grids import CHANCE
from ersparse.storage.tables import Row

VERDICTS = (AGREES, DIFFERS, OTHER, UNKNOWN)
SMALLEST = 0.6  # the smallest scale of a figure at which its text can still be read
POINTS = 60  # the largest number of points in a small curve
WIDTH, HEIGHT = 320, 64  # of the small curves, in units of their viewBox
METRICS = (
    ("test/acc", "last epoch"),
    ("test/acc_at_best_val", "best validation epoch"),
    ("test/acc_best", "best test epoch"),
)
FILES = ("run.json", "metrics.csv", "rewiring.csv")  # files of a run folder that the page links to


def page(
    sections: Sequence[Section], skipped: Sequence[Skipped], svgs: Mapping[str, Mapping[str, str]], root: Path
) -> str:
    """Return the HTML of the report; its links to run folders are relative to <root>/report.

    Args:
        sections: experiments, in the order of the page.
        skipped: files that could not be read.
        svgs: section name -> figure name -> SVG.
        root: folder below which the run folders are.
    """
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["url"] = lambda path: quote(os.fsencode(path))  # its bytes may be no text of the locale
    return environment.get_template("page.html").render(
        sections=[_section(section, svgs.get(section.name, {}), root) for section in sections],
        skipped=skipped,
        verdicts=VERDICTS,
        chance=CHANCE,
    )


def _section(section: Section, svgs: Mapping[str, str], root: Path) -> dict[str, Any]:
    rows = {row["hash"]: row for table in section.tables.values() for row in table.rows if "hash" in row}
    counts = Counter(row.get("verdict") for row in rows.values())
    return {
        "content": section,
        "counts": [counts[word] for word in VERDICTS],
        "runs": sum(len(group.runs) for group in section.groups),
        "done": sum(len(group.done) for group in section.groups),
        "missing": sum(len(group.missing) for group in section.groups),
        "reasons": _reasons(rows.values()),
        "figures": [(caption(name), inline(svg)) for name, svg in svgs.items()],
        "groups": [_group(group, rows.get(group.hash[:8]), root) for group in section.groups],
    }


def _reasons(rows: Iterable[Row]) -> list[tuple[str, int, str]]:
    """Return (verdict, number of rows, reason) of the rows that do not agree; those that differ are listed singly."""
    found: Counter[tuple[str, str]] = Counter()
    for row in rows:
        if row.get("verdict") == DIFFERS:
            found[DIFFERS, f"{row['label']} at {row['level']:g}: {row['why']}"] += 1
        elif row.get("verdict") in (OTHER, UNKNOWN):
            found[row["verdict"], row["why"]] += 1
    return sorted((word, count, why) for (word, why), count in found.items())


def _group(group: SeedGroup, row: Row | None, root: Path) -> dict[str, Any]:
    return {
        "content": group,
        "row": row,
        "sparsity": sparsity_range(group.level, group.final) if row else "",
        "curve": _curve([read_curve(root / run.path).get("test/acc", []) for run in group.done.values()]),
        "runs": [_run(run, root) for run in group.runs],
    }


def _run(run: Run, root: Path) -> dict[str, Any]:
    metrics = [(name, 100 * value) for key, name in METRICS if (value := run.metrics.get(key)) is not None]
    files = [name for name in FILES if (root / run.path / name).exists()]
    return {"content": run, "metrics": metrics, "files": files}


def _curve(curves: Sequence[Sequence[float]]) -> dict[str, Any] | None:
    """Return the small plot of test accuracy: SVG points of one line per run, with the lowest and highest value."""
    curves = [curve for curve in curves if len(curve) > 1]
    if not curves:
        return None
    low, high = (end(value for curve in curves for value in curve) for end in (min, max))
    lines = []
    for curve in curves:
        last = len(curve) - 1
        picked = sorted({round(k * last / (POINTS - 1)) for k in range(POINTS)})
        points = ((WIDTH * k / last, HEIGHT * (1 - (curve[k] - low) / ((high - low) or 1))) for k in picked)
        lines.append(" ".join(f"{x:.0f},{y:.1f}" for x, y in points))
    return {"lines": lines, "low": 100 * low, "high": 100 * high, "epochs": max(map(len, curves))}


SIZE = re.compile(r'width="([\d.]+)pt" height="[\d.]+pt"')
MATPLOTLIB_IDS = re.compile(
    r' id="(?:figure|axes|patch|line2d|matplotlib\.axis|xtick|ytick|text|legend|FillBetween\w*)_\d+"'
)


def inline(svg: str) -> str:
    """Return an SVG for embedding in the page: of flexible width, without prologue, metadata and repeated ids."""
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    return MATPLOTLIB_IDS.sub("", SIZE.sub(_flexible, svg, count=1))


def _flexible(size: re.Match[str]) -> str:
    return f'style="max-width:{size[1]}pt;min-width:{SMALLEST * float(size[1]):.0f}pt"'
