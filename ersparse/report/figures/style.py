"""Shared style of all figures: colours, sizes, axes, legends, and saving.

Every sparsity option has one colour and marker in all figures; methods and other settings differ in their dashes.
"""

from __future__ import annotations

import io
import math
import re
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullLocator

from ersparse.report.analysis.labels import rounded
from ersparse.storage.atomic import write_bytes, write_text

# Okabe and Ito's colours, which colour-blind readers can tell apart, with distinct markers: sparsity option -> both.
STYLES = {
    "uniform": ("#999999", "s"),
    "er": ("#56B4E9", "v"),
    "erk": ("#0072B2", "o"),
    "pyramidal": ("#D55E00", "^"),
    "balanced": ("#009E73", "D"),
    "snip": ("#E69F00", "h"),
    "grasp": ("#8C564B", "p"),
    "synflow": ("#332288", "<"),
    "imp": ("#AA4499", ">"),
    "synflow_multishot": ("#8877CC", "X"),
    "imp_multishot": ("#661144", "*"),
    "file": ("#CC79A7", "P"),
    "dense": ("#000000", "x"),
}
UNKNOWN = ("#000000", ".")  # of options without a style of their own
DASHES: list[Any] = ["-", "--", ":", "-.", (0, (6, 1)), (0, (1, 3)), (0, (5, 1, 1, 1, 1, 1))]
MOST = 6  # the largest number of panels in a figure
MANY = 12  # the largest number of lines that can be told apart
WRAP = 88  # characters in a line of the legend
PATH = re.compile(r' d="[^"]*"')  # SVG path data, which is rounded to hundredths of a point
MATPLOTLIB: Any = {"svg.fonttype": "none", "svg.hashsalt": "ersparse", "font.size": 9, "axes.titlesize": 9.5}


def look(sparsity: str, variant: int) -> dict[str, Any]:
    """Return the keyword arguments of `Axes.plot` for a sparsity option; `variant` selects the dashes."""
    color, marker = STYLES.get(sparsity, UNKNOWN)
    return {
        "color": color, "marker": marker, "linestyle": DASHES[variant % len(DASHES)],
        "markersize": 4.5, "linewidth": 1.4,
    }  # fmt: skip


def single() -> tuple[Figure, Axes]:
    """Return a figure with one panel."""
    figure = Figure(figsize=(6.4, 3.4), layout="constrained")
    axes = figure.subplots()
    _plain_frame(axes)
    return figure, axes


def panels(count: int) -> tuple[Figure, list[Axes]]:
    """Return a figure of `count` panels, two in a row; beyond `MOST` panels the rest is left out, with a remark."""
    left_out, count = max(0, count - MOST), min(count, MOST)
    columns, rows = min(2, count), -(-count // 2)
    figure = Figure(figsize=(3.6 * columns + 0.4, 2.5 * rows + 0.3), layout="constrained")
    places = list(figure.subplots(rows, columns, squeeze=False).flat)
    if left_out:
        figure.suptitle(f"the sparsest; {left_out} more panels are not shown", fontsize=8, color="0.3")
    for axes in places[count:]:
        axes.remove()
    for axes in places[:count]:
        _plain_frame(axes)
    return figure, places[:count]


def columns_of(count: int, names: Sequence[str]) -> tuple[Figure, list[Axes]]:
    """Return a figure of `count` panels in one row that share a vertical axis with the `names`, the first on top."""
    figure = Figure(
        figsize=(2.4 * count + 0.055 * max(map(len, names)) + 1, 0.18 * len(names) + 0.9), layout="constrained"
    )
    places = list(figure.subplots(1, count, squeeze=False, sharey=True).flat)
    for axes in places:
        _plain_frame(axes)
    places[0].set_yticks(range(len(names)), names, fontsize=8)
    places[0].set_ylim(len(names) - 0.4, -0.6)
    return figure, places


def _plain_frame(axes: Axes) -> None:
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def sparsity_axis(axes: Axes, values: Sequence[float]) -> None:
    """Make the horizontal axis a logarithmic density axis with sparsities as tick labels, dense on the left."""
    ticks = sorted({1 - value for value in values}, reverse=True)
    axes.set_xlim(ticks[0] * 1.25, ticks[-1] / 1.25)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels([rounded(1 - tick) for tick in ticks])
    axes.set_xlabel("sparsity")


def legend(figure: Figure, places: Sequence[Axes], more: Sequence[Line2D] = ()) -> None:
    """Add a legend below the panels with every label once, followed by `more`."""
    found: dict[str, Any] = {}
    for axes in places:
        handles, labels = axes.get_legend_handles_labels()
        found |= {label: handle for handle, label in zip(handles, labels, strict=True) if label not in found}
    found |= {str(handle.get_label()): handle for handle in more}
    longest = min(WRAP, max(map(len, found), default=0))
    columns = max(1, min(4, int(figure.get_figwidth() / (0.55 + 0.063 * longest))))
    names = [textwrap.fill(name, WRAP) for name in found]
    lines = sum(name.count("\n") + 1 for name in names)
    figure.set_figheight(figure.get_figheight() + 0.17 * math.ceil(lines / columns))
    figure.legend(found.values(), names, loc="outside lower center", ncols=columns, frameon=False, fontsize=8)


def ring(label: str) -> Line2D:
    """Return the legend entry of the paper's numbers."""
    return Line2D([], [], color="0.3", marker="o", markerfacecolor="none", linestyle="none", markersize=7, label=label)


def save(figure: Figure, path: Path) -> str:
    """Save a figure as PNG and SVG next to each other; return the SVG."""
    picture, text = io.BytesIO(), io.StringIO()
    with matplotlib.rc_context(MATPLOTLIB):
        figure.savefig(picture, format="png", dpi=110)
        figure.savefig(text, format="svg", metadata={"Date": None}, transparent=True)
    write_bytes(path.with_suffix(".png"), picture.getvalue())
    svg = PATH.sub(lambda path: re.sub(r"(\.\d\d)\d+", r"\1", path[0]), text.getvalue())
    write_text(path.with_suffix(".svg"), svg)
    return svg
