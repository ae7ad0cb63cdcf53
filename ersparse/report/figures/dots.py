"""Figure of configurations as named rows of dots, if lines over sparsity could not be told apart."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ersparse.report.analysis.labels import rounded
from ersparse.report.figures.lines import lines_of, paper_legend, sparsity_key
from ersparse.report.figures.style import columns_of, legend, look
from ersparse.storage.tables import Row

COLUMNS = 3  # the largest number of panels, for the sparsest sparsities


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
    if more := paper_legend(rows):
        legend(figure, places, more)
    return figure


def _dot(axes: Axes, row: Row, value: str, place: int) -> None:
    style = look(row["sparsity"], 0) | {"linestyle": "none"}
    axes.plot(row[value], place, **style)
    if row["low"] is not None:
        axes.plot([row["low"], row["high"]], [place, place], color=style["color"], linewidth=1.2)
    if row["printed"] is not None:
        axes.plot(row["printed"], place, "o", markerfacecolor="none", color=style["color"], markersize=9)
