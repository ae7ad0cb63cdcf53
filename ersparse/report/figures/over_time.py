"""Figures over epochs: learning curves, and what rewiring changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ersparse.report.analysis.groups import SeedGroup
from ersparse.report.analysis.labels import sparsity_range
from ersparse.report.figures.style import MANY, legend, look, panels

Curves = Mapping[str, Mapping[str, np.ndarray]]  # hash -> metric -> array of shape [seeds, epochs]
LEARNING = {"test/acc": "test accuracy, %"}
REWIRING = {"rewire/overlap": "overlap with source mask, %", "rewire/explored": "weights ever active, %"}


def learning(groups: Sequence[SeedGroup], curves: Curves, names: Mapping[str, str]) -> Figure | None:
    """Plot test accuracy over epochs: the mean over seeds, and a band from the lowest to the highest seed."""
    return _over_time(groups, curves, names, LEARNING)


def rewiring(groups: Sequence[SeedGroup], curves: Curves, names: Mapping[str, str]) -> Figure | None:
    """Plot the overlap with the source mask, and the fraction of weights that were ever active."""
    return _over_time(groups, curves, names, REWIRING)


def _over_time(
    groups: Sequence[SeedGroup], curves: Curves, names: Mapping[str, str], metrics: Mapping[str, str]
) -> Figure | None:
    """Plot one panel per network, sparsity and metric, the sparsest first; None if no group has the metrics.

    If a panel has more than `MANY` lines, those of one sparsity option and method look alike and have no bands.
    """
    found: dict[tuple[str, str], list[SeedGroup]] = {}
    for group in sorted(groups, key=lambda group: (-group.final, -group.level)):
        for metric in metrics:
            if metric in curves.get(group.hash, {}):
                title = f"{group.model}, {group.dataset}, sparsity {sparsity_range(group.level, group.final)}"
                found.setdefault((title, metric), []).append(group)
    if not found:
        return None
    if crowded := max(map(len, found.values())) > MANY:
        names = {group.hash: f"{group.sparsity}, {group.method}" for group in groups}
    variants = list(dict.fromkeys(_variant(group, names) for members in found.values() for group in members))
    figure, places = panels(len(found))
    for axes, ((title, metric), members) in zip(places, found.items(), strict=False):
        for group in members:
            style = look(group.sparsity, variants.index(_variant(group, names))) | {"label": names[group.hash]}
            _line(axes, 100 * curves[group.hash][metric], style, banded=not crowded)
        axes.set(title=title, xlabel="epoch", ylabel=metrics[metric])
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    legend(figure, places)
    return figure


def _variant(group: SeedGroup, names: Mapping[str, str]) -> str:
    return names[group.hash].removeprefix(group.sparsity)


def _line(axes: Axes, values: np.ndarray, style: dict[str, Any], banded: bool) -> None:
    epoch = np.arange(1, values.shape[1] + 1)
    axes.plot(epoch, values.mean(0), **style | {"marker": "", "linewidth": 1.4 if banded else 0.8})
    if banded:
        axes.fill_between(epoch, values.min(0), values.max(0), color=style["color"], alpha=0.12, linewidth=0)
