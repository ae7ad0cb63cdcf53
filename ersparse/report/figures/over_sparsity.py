"""Pictures with sparsity on the horizontal axis: accuracy, counters, flow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from ersparse.report.figures.style import MANY, columns_of, legend, look, ring, single, sparsity_axis
from ersparse.report.tables.overview import rounded
from ersparse.report.tables.writer import Row

COLUMNS = 3  # sparsities beside each other, the sparsest


@dataclass(frozen=True)
class Line:
    """Rows of one label, from dense to sparse, and how they are drawn."""

    label: str
    look: dict[str, Any]
    density: list[float]
    rows: list[Row]


def lines(rows: Sequence[Row]) -> list[Line]:
    """One for each label; where both sparsities differ, for each source sparsity."""
    key = axis(rows)
    pairs = len({row["level"] for row in rows if row["level"] != row["final"]}) > 1 and key == "final"
    found: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        variant = row["label"].removeprefix(row["sparsity"]) + (f", from {rounded(row['level'])}" if pairs else "")
        found.setdefault((row["sparsity"], variant), []).append(row)
    variants = list(dict.fromkeys(variant for _, variant in found))
    return [
        Line(
            sparsity + variant,
            look(sparsity, variants.index(variant)) | {"label": sparsity + variant},
            [1 - row[key] for row in sorted(some, key=lambda row: row[key])],
            sorted(some, key=lambda row: row[key]),
        )
        for (sparsity, variant), some in found.items()
    ]


def axis(rows: Sequence[Row]) -> str:
    """Which sparsity the axis shows: the final one, unless it is always the same."""
    return "final" if len({row["final"] for row in rows}) > 1 else "level"


def accuracy(rows: Sequence[Row]) -> Figure | None:
    """Last epoch's accuracy with its 95 % interval; the paper's numbers as rings."""
    rows = [row for row in rows if row["mean"] is not None]
    if not rows:
        return None
    if crowded(rows):
        return dots(rows, "mean", "test accuracy, %")
    figure, axes = single()
    for line in lines(rows):
        axes.plot(line.density, [row["mean"] for row in line.rows], **line.look)
        banded = [row["low"] is not None for row in line.rows]
        low, high = ([row[end] or 0 for row in line.rows] for end in ("low", "high"))
        axes.fill_between(line.density, low, high, where=banded, color=line.look["color"], alpha=0.15, linewidth=0)
        _printed(axes, line)
    bottom, top = axes.get_ylim()
    axes.set_ylim(max(0.0, bottom), min(101.0, top))
    axes.set_ylabel("test accuracy, %")
    sparsity_axis(axes, [row[axis(rows)] for row in rows])
    legend(figure, [axes], _rings(rows))
    return figure


def counters(rows: Sequence[Row]) -> Figure | None:
    """(layer, direction) pairs with a channel without an edge, over what chance gives; the paper's as rings."""
    rows = [row for row in rows if row.get("pairs") is not None]
    if len({row[axis(rows)] for row in rows}) < 2:
        return None
    figure, axes = single()
    for line in lines(rows):
        points = line.look
        if all(row.get("expected") is not None for row in line.rows):
            axes.plot(line.density, [row["expected"] for row in line.rows], **line.look | {"marker": "", "label": None})
            points = line.look | {"linestyle": "none"}
        axes.plot(line.density, [row["pairs"] for row in line.rows], **points)
        _printed(axes, line)
    axes.set_ylabel("(layer, direction) pairs\nwith a channel without an edge")
    sparsity_axis(axes, [row[axis(rows)] for row in rows])
    expectation = Line2D([], [], color="0.3", linewidth=1.2, label="exact expectation")
    legend(figure, [axes], [expectation, ring("the paper")])
    return figure


def flow(rows: Sequence[Row]) -> Figure | None:
    """Of the kept weights, those on a path from input to output: with repair nearly all, without it ever fewer."""
    rows = [row for row in rows if row.get("effective") is not None and row["realised"] < 1]
    if not rows or len({row[axis(rows)] for row in rows}) < 2:
        return None
    rows = [row | {"share": 100 * (1 - row["effective"]) / (1 - row["realised"])} for row in rows]
    if crowded(rows):
        return dots([row | {"low": None, "printed": None} for row in rows], "share", "kept weights on a path, %")
    figure, axes = single()
    for line in lines(rows):
        axes.plot(line.density, [row["share"] for row in line.rows], **line.look)
    low = min(99.0, float(axes.get_ylim()[0]))
    axes.set_ylim(low, 100 + 0.03 * (100 - low))
    axes.set_ylabel("kept weights on a path\nfrom input to output, %")
    sparsity_axis(axes, [row[axis(rows)] for row in rows])
    legend(figure, [axes])
    return figure


def crowded(rows: Sequence[Row]) -> bool:
    """Whether lines would be too many to tell apart, or would join nothing."""
    count = len({row["label"] for row in rows})
    return count > MANY or count == len(rows)


def dots(rows: Sequence[Row], value: str, title: str) -> Figure:
    """A row for each line, a column for each of the sparsest sparsities; one column where each line is a point.

    Args:
        value: key of what is shown, beside the ends `low` and `high` of its interval, and what is `printed`.
    """
    key = axis(rows)
    shown = [(line.label, row) for line in lines(rows) for row in line.rows]
    levels = sorted({row[key] for row in rows})[-COLUMNS:]
    if len(levels) > 1 and len(lines(rows)) == len(rows):
        shown, levels = [(f"{label} at {rounded(row[key])}", row) for label, row in shown], []
    names = list(dict.fromkeys(label for label, _ in shown))
    figure, places = columns_of(max(1, len(levels)), names)
    for axes, level in zip(places, levels or [None], strict=True):
        for label, row in shown:
            if level in (row[key], None):
                _dot(axes, row, value, names.index(label))
        low, high = axes.get_xlim()
        axes.set(title=level and f"sparsity {rounded(level)}", xlabel=title, xlim=(max(-3, low), min(103, high)))
        axes.xaxis.set_major_locator(MaxNLocator(5))
    if more := _rings(rows):
        legend(figure, places, more)
    return figure


def _dot(axes: Axes, row: Row, value: str, place: int) -> None:
    style = look(row["sparsity"], 0) | {"linestyle": "none"}
    axes.plot(row[value], place, **style)
    if row["low"] is not None:
        axes.plot([row["low"], row["high"]], [place, place], color=style["color"], linewidth=1.2)
    if row["printed"] is not None:
        axes.plot(row["printed"], place, "o", markerfacecolor="none", color=style["color"], markersize=9)


def _rings(rows: Sequence[Row]) -> list[Line2D]:
    return [ring("the paper")] if any(row["printed"] is not None for row in rows) else []


def _printed(axes: Axes, line: Line) -> None:
    """Rings around where the paper's numbers lie."""
    pairs = zip(line.density, line.rows, strict=True)
    points = [(x, row["printed"]) for x, row in pairs if row.get("printed") is not None]
    if points:
        axes.plot(*zip(*points, strict=True), "o", markerfacecolor="none", color=line.look["color"], markersize=9)
