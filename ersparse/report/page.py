"""One page that needs nothing else: what reproduces and what does not, tables, pictures, and every run behind them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from ersparse.report.analysis.compare import AGREES, DIFFERS, OTHER, UNKNOWN
from ersparse.report.analysis.groups import Group
from ersparse.report.analysis.runs import Run, Skipped, read_curve
from ersparse.report.figures.plots import caption
from ersparse.report.section import Section
from ersparse.report.tables.overview import where
from ersparse.report.tables.writer import Row

WORDS = (AGREES, DIFFERS, OTHER, UNKNOWN)
SMALLEST = 0.6  # of a picture's size, at which its words can still be read
POINTS = 60  # of a run's curve, at most
WIDE, HIGH = 320, 64  # of the small curves
MEASURES = (("test/acc", "last epoch"), ("test/acc_at_best_val", "best validation"), ("test/acc_best", "best test"))


def page(
    sections: Sequence[Section], skipped: Sequence[Skipped], svgs: Mapping[str, Mapping[str, str]], root: Path
) -> str:
    """The HTML, with links to the run folders as they lie from <root>/report.

    Args:
        svgs: section -> name of a picture -> SVG.
    """
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.get_template("page.html").render(
        sections=[_section(section, svgs.get(section.name, {}), root) for section in sections],
        skipped=skipped,
        words=WORDS,
    )


def _section(section: Section, svgs: Mapping[str, str], root: Path) -> dict[str, Any]:
    rows = {row["hash"]: row for table in section.tables.values() for row in table.rows if "hash" in row}
    counts = Counter(row.get("verdict") for row in rows.values())
    return {
        "content": section,
        "counts": [counts[word] for word in WORDS],
        "runs": sum(len(group.runs) for group in section.groups),
        "done": sum(len(group.done) for group in section.groups),
        "missing": sum(len(group.missing) for group in section.groups),
        "reasons": _reasons(rows.values()),
        "pictures": [(caption(name), inline(svg)) for name, svg in svgs.items()],
        "cells": [_cell(group, rows.get(group.hash[:8]), root) for group in section.groups],
    }


def _reasons(rows: Any) -> list[tuple[str, int, str]]:
    """(verdict, how many rows, why) of all that do not agree; those that differ one by one."""
    found: Counter[tuple[str, str]] = Counter()
    for row in rows:
        if row.get("verdict") == DIFFERS:
            found[DIFFERS, f"{row['label']} at {row['level']:g}: {row['why']}"] += 1
        elif row.get("verdict") in (OTHER, UNKNOWN):
            found[row["verdict"], row["why"]] += 1
    return sorted((word, count, why) for (word, why), count in found.items())


def _cell(group: Group, row: Row | None, root: Path) -> dict[str, Any]:
    return {
        "group": group,
        "row": row,
        "where": where(group.level, group.final) if row else "",
        "curve": _curve([read_curve(root / run.path).get("test/acc", []) for run in group.done.values()]),
        "runs": [_run(run, root) for run in group.runs],
    }


def _run(run: Run, root: Path) -> dict[str, Any]:
    measures = [(name, 100 * value) for key, name in MEASURES if (value := run.metrics.get(key)) is not None]
    files = [name for name in ("run.json", "metrics.csv", "rewiring.csv") if (root / run.path / name).exists()]
    return {"content": run, "measures": measures, "files": files}


def _curve(curves: Sequence[Sequence[float]]) -> dict[str, Any] | None:
    """Lines of a small picture, for each run, with the least and the greatest value."""
    curves = [curve for curve in curves if len(curve) > 1]
    if not curves:
        return None
    low, high = (end(value for curve in curves for value in curve) for end in (min, max))
    lines = []
    for curve in curves:
        last = len(curve) - 1
        picked = sorted({round(k * last / (POINTS - 1)) for k in range(POINTS)})
        points = ((WIDE * k / last, HIGH * (1 - (curve[k] - low) / ((high - low) or 1))) for k in picked)
        lines.append(" ".join(f"{x:.0f},{y:.1f}" for x, y in points))
    return {"lines": lines, "low": 100 * low, "high": 100 * high, "epochs": max(map(len, curves))}


SIZE = re.compile(r'width="([\d.]+)pt" height="[\d.]+pt"')
OWN_NAMES = re.compile(
    r' id="(?:figure|axes|patch|line2d|matplotlib\.axis|xtick|ytick|text|legend|FillBetween\w*)_\d+"'
)


def inline(svg: str) -> str:
    """An SVG as part of a page: as wide as there is room, but not so small that words cannot be read; without prologue,
    metadata, and names that come twice.
    """
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    return OWN_NAMES.sub("", SIZE.sub(_flexible, svg, count=1))


def _flexible(size: re.Match[str]) -> str:
    return f'style="max-width:{size[1]}pt;min-width:{SMALLEST * float(size[1]):.0f}pt"'
