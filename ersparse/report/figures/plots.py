"""All figures of one experiment."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from ersparse.report.analysis.groups import SeedGroup
from ersparse.report.analysis.labels import labels
from ersparse.report.analysis.runs import read_curve
from ersparse.report.figures import over_layers, over_sparsity, over_time
from ersparse.report.figures.style import MATPLOTLIB
from ersparse.storage.tables import Row

CAPTIONS = {
    "accuracy": "Test accuracy of the last epoch, with its 95 % interval over seeds.",
    "counters": "Masks as drawn: points are means over seeds, lines exact expectations, rings the paper's.",
    "layers": "Nominal density of each layer.",
    "flow": "Kept weights on a path from input to output, after flow repair if the run has one.",
    "learning": "Test accuracy during training: mean over seeds, with a band from the lowest to the highest seed.",
    "rewiring": "Overlap of the mask with the source mask, and fraction of the weights that were ever active.",
}


def draw_figures(
    trained: Sequence[Row], drawn: Sequence[Row], groups: Sequence[SeedGroup], root: Path
) -> dict[str, Figure]:
    """Return name -> figure for everything that has data, in the order of `CAPTIONS`.

    Figures over sparsity are drawn once per network, and named "accuracy-vgg16-cifar10" if there are several.

    Args:
        trained: rows of `analysis.accuracy`.
        drawn: rows of `analysis.mask_counts`.
        groups: all groups of the experiment.
        root: folder below which the run folders are.
    """
    shown = [group for group in groups if group.kind != "theory" and group.done]
    names = labels(shown)
    curves = {group.hash: _curves(group, root) for group in shown if group.kind == "accuracy"}
    with matplotlib.rc_context(MATPLOTLIB):
        found = {
            **_for_each_network("accuracy", over_sparsity.accuracy, trained),
            **_for_each_network("counters", over_sparsity.counters, drawn),
            "layers": over_layers.layer_densities(shown),
            **_for_each_network("flow", over_sparsity.flow, [*trained, *drawn]),
            "learning": over_time.learning(shown, curves, names),
            "rewiring": over_time.rewiring(shown, curves, names),
        }
    return {name: figure for name, figure in found.items() if figure}


def caption(name: str) -> str:
    """Return the caption of a figure, with the network's name if the figure's name has it."""
    kind, _, network = name.partition("-")
    return " ".join(filter(None, [CAPTIONS[kind], network and f"{network.replace('-', ', ')}."]))


def _for_each_network(
    name: str, figure_of: Callable[[Sequence[Row]], Figure | None], rows: Sequence[Row]
) -> dict[str, Figure | None]:
    networks: dict[str, list[Row]] = {}
    for row in rows:
        networks.setdefault(f"{row['model']}-{row['dataset']}", []).append(row)
    if len(networks) == 1:
        return {name: figure_of(rows)}
    return {f"{name}-{network}": figure_of(members) for network, members in networks.items()}


def _curves(group: SeedGroup, root: Path) -> dict[str, np.ndarray]:
    """Return metric -> array of shape [seeds, epochs], for the metrics and epochs that all finished seeds have."""
    found = [curve for run in group.done.values() if (curve := read_curve(root / run.path))]
    names = set.intersection(*map(set, found)) if found else set()
    least = min((len(curve["epoch"]) for curve in found), default=0)
    return {name: np.array([curve[name][:least] for curve in found]) for name in names}
