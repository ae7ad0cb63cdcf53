"""Layer densities of several options beside each other (the paper's Figure 6)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

if TYPE_CHECKING:  # a report takes the styles, and needs no torch
    from ersparse.sparse.layers import Layer

# Okabe and Ito's colours, which the colour-blind can tell apart, each with a marker of its own.
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


def plot_densities(layers: Sequence[Layer], densities: Mapping[str, Sequence[float]], title: str, path: Path) -> None:
    """One line an option over the layers, in a PNG; the density axis is logarithmic."""
    figure = Figure(figsize=(8, 4.2), layout="constrained")
    axes = figure.subplots()
    number = range(1, len(layers) + 1)
    for name, values in densities.items():
        color, marker = STYLES.get(name, ("#000000", "."))
        axes.plot(number, values, color=color, marker=marker, markersize=5, linewidth=1.5, label=name)
    axes.set_yscale("log")
    axes.set_ylim(top=1.3)
    axes.set(xlabel="layer", ylabel="density", title=title)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=130)
