"""What all pictures of a report share: size, legend, axes.

A kind of density has one colour and marker everywhere (`density.STYLES`, which the colour-blind can tell apart);
methods and other settings differ in the dashes of the line.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullLocator

from ersparse.files import write_bytes, write_text
from ersparse.report.density import STYLES
from ersparse.report.tables import plain

DASHES: list[Any] = ["-", "--", ":", "-.", (0, (6, 1)), (0, (1, 3)), (0, (5, 1, 1, 1, 1, 1))]
MOST = 6  # panels of one picture
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
    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    axes = figure.subplots()
    _plain_frame(axes)
    return figure, axes


def panels(count: int) -> tuple[Figure, list[Axes]]:
    """So many places side by side, two a row; of more than `MOST` the first, which the picture says."""
    left_out, count = max(0, count - MOST), min(count, MOST)
    columns, rows = min(2, count), -(-count // 2)
    figure = Figure(figsize=(3.6 * columns + 0.4, 2.5 * rows + 0.5), layout="constrained")
    places = list(figure.subplots(rows, columns, squeeze=False).flat)
    if left_out:
        figure.suptitle(f"the sparsest; {left_out} more panels are not shown", fontsize=8, color="0.3")
    for axes in places[count:]:
        axes.remove()
    for axes in places[:count]:
        _plain_frame(axes)
    return figure, places[:count]


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
    axes.set_xticklabels([plain(round(1 - tick, 10)) for tick in ticks])
    axes.set_xlabel("sparsity")


def legend(figure: Figure, places: Sequence[Axes], more: Sequence[Line2D] = ()) -> None:
    """Each label once, below the picture, where it covers nothing."""
    found: dict[str, Any] = {}
    for axes in places:
        handles, labels = axes.get_legend_handles_labels()
        found |= {label: handle for handle, label in zip(handles, labels, strict=True) if label not in found}
    found |= {str(handle.get_label()): handle for handle in more}
    columns = 4 if max(map(len, found), default=0) < 18 else 2
    figure.legend(found.values(), found.keys(), loc="outside lower center", ncols=columns, frameon=False, fontsize=8)


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
