"""Figures over sparsity: accuracy, counts of drawn masks, and flow.

The rows are those of `analysis.accuracy` and `analysis.mask_counts`, of one network on one data set.
"""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ersparse.report.figures.dots import dots
from ersparse.report.figures.lines import Line, crowded, lines_of, paper_legend, sparsity_key
from ersparse.report.figures.style import legend, ring, single, sparsity_axis
from ersparse.storage.tables import Row


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
    legend(figure, [axes], paper_legend(rows))
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


def _printed(axes: Axes, line: Line) -> None:
    """Mark the paper's numbers by rings."""
    pairs = zip(line.density, line.rows, strict=True)
    points = [(x, row["printed"]) for x, row in pairs if row.get("printed") is not None]
    if points:
        axes.plot(*zip(*points, strict=True), "o", markerfacecolor="none", color=line.style["color"], markersize=9)
