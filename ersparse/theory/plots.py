"""Plotting functions shared by the experiments: a colour-blind safe palette, and points with error bars."""

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
    """Return a figure with `panels` axes side by side."""
    figure = Figure(figsize=(6.4 * panels + (0.6 if panels == 1 else 0), 4.4), layout="constrained")
    axes = list(np.atleast_1d(figure.subplots(1, panels)))
    for each in axes:
        each.grid(alpha=0.25)
        each.spines[["top", "right"]].set_visible(False)
    return figure, axes


def series_style(number: int) -> dict[str, Any]:
    """Return the colour and the marker of series `number`, as keywords of `Axes.plot`."""
    return {"color": COLORS[number % len(COLORS)], "marker": MARKERS[number % len(MARKERS)]}


def plot_intervals(
    axes: Any, x: ArrayLike, y: ArrayLike, intervals: Sequence[Sequence[float]], number: int, label: str
) -> None:
    """Plot the measured points of series `number` with their 95 % confidence intervals, (low, high) each."""
    bars = np.abs(np.asarray(intervals, dtype=float).reshape(-1, 2).T - np.asarray(y, dtype=float))
    style = series_style(number)
    axes.errorbar(x, y, bars, linestyle="none", markersize=5, capsize=2, linewidth=1, label=label, **style)


def use_decimal_ticks(*axes: Any) -> None:
    """Label logarithmic axes with 0.01, 0.02, 0.05, 0.1 and so on in place of powers of ten."""
    for axis in axes:
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter("")


def save_figure(figure: Figure, path: Path) -> None:
    """Save the figure as PNG, with legends that have no frame."""
    for axes in figure.axes:
        if legend := axes.get_legend():
            legend.set_frame_on(False)
    figure.savefig(path, dpi=130)
