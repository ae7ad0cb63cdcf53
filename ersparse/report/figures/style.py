"""What all pictures of a report share: size, legend, axes.

A kind of density has one colour and marker everywhere (`density.STYLES`, which the colour-blind can tell apart);
methods and other settings differ in the dashes of the line.
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

from ersparse.report.figures.density import STYLES
from ersparse.report.tables.overview import rounded
from ersparse.storage.atomic import write_bytes, write_text

DASHES: list[Any] = ["-", "--", ":", "-.", (0, (6, 1)), (0, (1, 3)), (0, (5, 1, 1, 1, 1, 1))]
MOST = 6  # panels of one picture
MANY = 12  # lines, beyond which nobody can tell them apart
WRAP = 88  # letters of a legend's line
PATH = re.compile(r' d="[^"]*"')  # of which a hundredth of a point will do
MATPLOTLIB: Any = {"svg.fonttype": "none", "svg.hashsalt": "ersparse", "font.size": 9, "axes.titlesize": 9.5}


def look(sparsity: str, variant: int) -> dict[str, Any]:
    """How a line of this kind of density is drawn; `variant` counts what else tells lines apart."""
    color, marker = STYLES.get(sparsity, ("#000000", "."))
    return {
        "color": color, "marker": marker, "linestyle": DASHES[variant % len(DASHES)],
        "markersize": 4.5, "linewidth": 1.4,
    }  # fmt: skip


def single() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(6.4, 3.4), layout="constrained")
    axes = figure.subplots()
    _plain_frame(axes)
    return figure, axes


def panels(count: int) -> tuple[Figure, list[Axes]]:
    """So many places side by side, two a row; of more than `MOST` the first, which the picture says."""
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
    """So many places beside each other, with a row for each name, the first on top."""
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
    """Densities, by their logarithm, read as sparsities: from dense on the left to sparse on the right."""
    ticks = sorted({1 - value for value in values}, reverse=True)
    axes.set_xlim(ticks[0] * 1.25, ticks[-1] / 1.25)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels([rounded(1 - tick) for tick in ticks])
    axes.set_xlabel("sparsity")


def legend(figure: Figure, places: Sequence[Axes], more: Sequence[Line2D] = ()) -> None:
    """Each label once, below the picture, where it covers nothing."""
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
    """The legend's sign for a printed number."""
    return Line2D([], [], color="0.3", marker="o", markerfacecolor="none", linestyle="none", markersize=7, label=label)


def save(figure: Figure, path: Path) -> str:
    """PNG and SVG beside each other; returns the SVG, to be set into a page."""
    picture, text = io.BytesIO(), io.StringIO()
    with matplotlib.rc_context(MATPLOTLIB):
        figure.savefig(picture, format="png", dpi=110)
        figure.savefig(text, format="svg", metadata={"Date": None}, transparent=True)
    write_bytes(path.with_suffix(".png"), picture.getvalue())
    svg = PATH.sub(lambda path: re.sub(r"(\.\d\d)\d+", r"\1", path[0]), text.getvalue())
    write_text(path.with_suffix(".svg"), svg)
    return svg
