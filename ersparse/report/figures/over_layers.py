"""Figure of layer densities by sparsity option (the paper's Figure 6), for a report."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from ersparse.report.analysis.groups import SeedGroup
from ersparse.report.analysis.labels import rounded
from ersparse.report.figures.style import legend, look, panels


def layer_densities(groups: Sequence[SeedGroup]) -> Figure | None:
    """Plot the nominal density of every layer, one panel per network and sparsity, the sparsest first."""
    found: dict[str, dict[str, SeedGroup]] = {}
    for group in sorted(groups, key=lambda group: -group.level):
        if any(layer.density < 1 for layer in group.first.layers):
            title = f"{group.model}, {group.dataset}, sparsity {rounded(group.level)}"
            found.setdefault(title, {}).setdefault(group.sparsity, group)
    if not found:
        return None
    figure, places = panels(len(found))
    for axes, (title, members) in zip(places, found.items(), strict=False):
        for option, group in members.items():
            density = [layer.density or np.nan for layer in group.first.layers]
            style = look(option, 0) | {"markersize": 3, "linewidth": 1.1, "label": option}
            axes.plot(range(1, len(density) + 1), density, **style)
        least = min((layer.density for g in members.values() for layer in g.first.layers if layer.density), default=0.1)
        axes.set_ylim(least / 1.6, 1.5)
        axes.set(yscale="log", title=title, xlabel="layer", ylabel="density")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.yaxis.set_minor_locator(NullLocator())
    legend(figure, places)
    return figure
