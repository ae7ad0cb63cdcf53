"""Figure of layer densities of several options (the paper's Figure 6), for `ersparse density`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ersparse.report.figures.style import STYLES, UNKNOWN


def plot_densities(densities: Mapping[str, Sequence[float]], title: str, path: Path) -> None:
    """Plot one line per option over the layers, with a logarithmic density axis, and save it to `path`."""
    figure = Figure(figsize=(8, 4.2), layout="constrained")
    axes = figure.subplots()
    for name, values in densities.items():
        color, marker = STYLES.get(name, UNKNOWN)
        number = range(1, len(values) + 1)
        axes.plot(number, values, color=color, marker=marker, markersize=5, linewidth=1.5, label=name)
    axes.set_yscale("log")
    axes.set_ylim(top=1.3)
    axes.set(xlabel="layer", ylabel="density", title=title)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=130)
