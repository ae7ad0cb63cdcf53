"""Figures over sparsity: accuracy, counts of drawn masks, and flow.

The rows are those of `analysis.accuracy` and `analysis.mask_counts`, of one network on one data set.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from ersparse.report.analysis.labels import rounded
from ersparse.report.figures.style import MANY, columns_of, legend, look, ring, single, sparsity_axis
from ersparse.storage.tables import Row

COLUMNS = 3  # panels of `dots`, for the sparsest sparsities


@dataclass(frozen=True)
class Line:
    """One line of a figure.

    Attributes:
        style: keyword arguments of `Axes.plot`.
        density: of each row.
        rows: from dense to sparse.
    """

    label: str
    style: dict[str, Any]
    density: list[float]
    rows: list[Row]


def lines_of(rows: Sequence[Row]) -> list[Line]:
    """Return one line per label; if source and final sparsity both vary, one per label and source sparsity."""
    key = sparsity_key(rows)
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
            [1 - row[key] for row in sorted(members, key=lambda row: row[key])],
            sorted(members, key=lambda row: row[key]),
        )
        for (sparsity, variant), members in found.items()
    ]


def sparsity_key(rows: Sequence[Row]) -> str:
    """Return which sparsity the axis shows: "final", or "level" if the final sparsity does not vary."""
    return "final" if len({row["final"] for row in rows}) > 1 else "level"


def accuracy(rows: Sequence[Row]) -> Figure | None:
    """Plot the test accuracy of the last epoch with its 95 % interval; rings mark the paper's numbers."""
    rows = [row for row in rows if row["mean"] is not None]
    if not rows:
        return None
    if crowded(rows):
        return dots(rows, "mean", "test accuracy, %")
    figure, axes = single()
    for line in lines_of(rows):
        axes.plot(line.density, [row["mean"] for row in line.rows], **line.style)
        banded = [row["low"] is not None for row in line.rows]
        low, high = ([row[end] or 0 for row in line.rows] for end in ("low", "high"))
        axes.fill_between(line.density, low, high, where=banded, color=line.style["color"], alpha=0.15, linewidth=0)
        _printed(axes, line)
    bottom, top = axes.get_ylim()
    axes.set_ylim(max(0.0, bottom), min(101.0, top))
    axes.set_ylabel("test accuracy, %")
    sparsity_axis(axes, [row[sparsity_key(rows)] for row in rows])
    legend(figure, [axes], _rings(rows))
    return figure


def counters(rows: Sequence[Row]) -> Figure | None:
    """Plot the number of (layer, direction) pairs that have a channel without an edge, and its expectation.

    Rings mark the paper's numbers.
    """
    rows = [row for row in rows if row.get("pairs") is not None]
    if len({row[sparsity_key(rows)] for row in rows}) < 2:
        return None
    figure, axes = single()
    for line in lines_of(rows):
        points = line.style
        if all(row.get("expected") is not None for row in line.rows):
            axes.plot(
                line.density, [row["expected"] for row in line.rows], **line.style | {"marker": "", "label": None}
            )
            points = line.style | {"linestyle": "none"}
        axes.plot(line.density, [row["pairs"] for row in line.rows], **points)
        _printed(axes, line)
    axes.set_ylabel("(layer, direction) pairs\nwith a channel without an edge")
    sparsity_axis(axes, [row[sparsity_key(rows)] for row in rows])
    expectation = Line2D([], [], color="0.3", linewidth=1.2, label="exact expectation")
    legend(figure, [axes], [expectation, ring("the paper")])
    return figure


def flow(rows: Sequence[Row]) -> Figure | None:
    """Plot the percentage of kept weights on a path from input to output."""
    rows = [row for row in rows if row.get("effective") is not None and row["realised"] < 1]
    if not rows or len({row[sparsity_key(rows)] for row in rows}) < 2:
        return None
    rows = [row | {"share": 100 * (1 - row["effective"]) / (1 - row["realised"])} for row in rows]
    if crowded(rows):
        return dots([row | {"low": None, "printed": None} for row in rows], "share", "kept weights on a path, %")
    figure, axes = single()
    for line in lines_of(rows):
        axes.plot(line.density, [row["share"] for row in line.rows], **line.style)
    low = min(99.0, float(axes.get_ylim()[0]))
    axes.set_ylim(low, 100 + 0.03 * (100 - low))
    axes.set_ylabel("kept weights on a path\nfrom input to output, %")
    sparsity_axis(axes, [row[sparsity_key(rows)] for row in rows])
    legend(figure, [axes])
    return figure


def crowded(rows: Sequence[Row]) -> bool:
    """Return whether there are too many lines to tell apart, or only lines of a single point."""
    count = len({row["label"] for row in rows})
    return count > MANY or count == len(rows)


def dots(rows: Sequence[Row], value: str, title: str) -> Figure:
    """Plot one named row of dots per line, with a panel for each of the sparsest sparsities.

    If every line is a single point, one panel holds them all.

    Args:
        rows: with keys `low` and `high`, the ends of an interval, and `printed`, the paper's number.
        value: key of the values to plot.
        title: label of the horizontal axis.
    """
    key = sparsity_key(rows)
    shown = [(line.label, row) for line in lines_of(rows) for row in line.rows]
    levels = sorted({row[key] for row in rows})[-COLUMNS:]
    if len(levels) > 1 and len(lines_of(rows)) == len(rows):
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
    """Mark the paper's numbers by rings."""
    pairs = zip(line.density, line.rows, strict=True)
    points = [(x, row["printed"]) for x, row in pairs if row.get("printed") is not None]
    if points:
        axes.plot(*zip(*points, strict=True), "o", markerfacecolor="none", color=line.style["color"], markersize=9)
