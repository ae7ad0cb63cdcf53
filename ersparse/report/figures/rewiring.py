"""Figure of one run's rewiring over training steps, for `ersparse rewiring`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure

Update = dict[str, str]  # one line of rewiring.csv: one layer at one update
LIGHTEST = 0.92  # of the colour map; the last layers would be too light beyond
PANELS: tuple[tuple[str, str, Callable[[Update], float]], ...] = (
    ("grown", "weights grown, % of the layer's", lambda row: 100 * int(row["grown"]) / max(1, int(row["nonzero"]))),
    ("overlap", "overlap with source mask, %", lambda row: 100 * float(row["overlap"])),
    ("explored", "weights ever active, % of the layer's", lambda row: 100 * float(row["explored"])),
    ("no_input", "channels without input", lambda row: int(row["no_input"])),
)


def plot_rewiring(updates: Sequence[Update], path: Path) -> None:
    """Plot four panels over the steps of the mask updates, and save them to `path`.

    There is one line per layer, from the first layer (dark) to the last (light).
    """
    figure = Figure(figsize=(9, 6), layout="constrained")
    axes = figure.subplots(2, 2, sharex=True)
    for place, (key, title, value) in zip(axes.flat, PANELS, strict=True):
        _panel(place, updates, key, value)
        place.set_title(title, fontsize=10)
        place.set_ylim(bottom=0)
        place.spines[["top", "right"]].set_visible(False)
    for place in axes[1]:
        place.set_xlabel("step")
    colours = ScalarMappable(cmap=matplotlib.colormaps["viridis"])
    bar = figure.colorbar(colours, ax=axes, ticks=[0, LIGHTEST], shrink=0.5)
    bar.ax.set_yticklabels(["first layer", "last layer"])
    figure.savefig(path, dpi=130)


def _panel(axes: Axes, updates: Sequence[Update], key: str, value: Callable[[Update], float]) -> None:
    layers = list(dict.fromkeys(row["layer"] for row in updates))
    colours = matplotlib.colormaps["viridis"]
    for number, layer in enumerate(layers):
        # Step 0 is the source mask, before which nothing was grown.
        own = [row for row in updates if row["layer"] == layer and not (key == "grown" and row["step"] == "0")]
        colour = colours(LIGHTEST * number / max(1, len(layers) - 1))
        axes.plot([int(row["step"]) for row in own], [value(row) for row in own], color=colour, lw=1)
