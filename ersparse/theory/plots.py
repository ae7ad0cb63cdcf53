"""What the plots of the experiments have in common: colours that the colour-blind can tell apart, points with bars."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator
from numpy.typing import ArrayLike

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")  # Okabe and Ito
MARKERS = ("o", "^", "D", "s", "v", "P", "X")


def new_figure(panels: int = 1) -> tuple[Figure, list[Any]]:
    """A figure with `panels` axes side by side."""
    figure = Figure(figsize=(6.4 * panels + (0.6 if panels == 1 else 0), 4.4), layout="constrained")
    axes = list(np.atleast_1d(figure.subplots(1, panels)))
    for each in axes:
        each.grid(alpha=0.25)
        each.spines[["top", "right"]].set_visible(False)
    return figure, axes


def style(number: int) -> dict[str, Any]:
    """Colour and marker of series `number`."""
    return {"color": COLORS[number % len(COLORS)], "marker": MARKERS[number % len(MARKERS)]}


def points(
    axes: Any, x: ArrayLike, y: ArrayLike, intervals: Sequence[Sequence[float]], number: int, label: str
) -> None:
    """Measured points with their 95 % intervals, (low, high) each."""
    bars = np.abs(np.asarray(intervals, dtype=float).reshape(-1, 2).T - np.asarray(y, dtype=float))
    axes.errorbar(x, y, bars, linestyle="none", markersize=5, capsize=2, linewidth=1, label=label, **style(number))


def plain_ticks(axis: Any) -> None:
    """0.01, 0.02, 0.05, 0.1 on a logarithmic axis, in place of powers of ten."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter("")


def save(figure: Figure, path: Path) -> None:
    """As PNG; the legends have no frame."""
    for axes in figure.axes:
        if legend := axes.get_legend():
            legend.set_frame_on(False)
    figure.savefig(path, dpi=130)
