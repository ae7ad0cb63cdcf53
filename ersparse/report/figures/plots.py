"""Every picture for which an experiment has data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from ersparse.report.analysis.groups import Group
from ersparse.report.analysis.runs import read_curve
from ersparse.report.figures import over_layers, over_sparsity, over_time
from ersparse.report.figures.style import MATPLOTLIB
from ersparse.report.tables.accuracy import labels
from ersparse.report.tables.writer import Row, Table

CAPTIONS = {
    "accuracy": "Test accuracy of the last epoch, with its 95 % interval over seeds.",
    "counters": "Masks as drawn: points are means over seeds, lines what chance alone gives.",
    "layers": "Density asked for each layer.",
    "flow": "Kept weights that lie on some path from input to output, after repair where there is one.",
    "learning": "Test accuracy while training: mean over seeds, and from the lowest to the highest.",
    "rewiring": "What rewiring leaves of the source's mask, and how many of a layer's weights were ever active.",
}


def draw(tables: Mapping[str, Table], groups: Sequence[Group], root: Path) -> dict[str, Figure]:
    """Name -> picture, in the order of `CAPTIONS`; of several networks, what lies over sparsity comes once for each:
    "accuracy-vgg16-cifar10".
    """
    trained, drawn = (_rows(tables, name) for name in ("results", "counters"))
    shown = [group for group in groups if group.kind != "theory" and group.done]
    names = labels(shown)
    curves = {group.hash: _curves(group, root) for group in shown if group.kind == "accuracy"}
    with matplotlib.rc_context(MATPLOTLIB):
        found = {
            **_of_each_network("accuracy", over_sparsity.accuracy, trained),
            **_of_each_network("counters", over_sparsity.counters, drawn),
            "layers": over_layers.layers(shown),
            **_of_each_network("flow", over_sparsity.flow, [*trained, *drawn]),
            "learning": over_time.learning(shown, curves, names),
            "rewiring": over_time.rewiring(shown, curves, names),
        }
    return {name: figure for name, figure in found.items() if figure}


def caption(name: str) -> str:
    """What a picture shows, and of which network where there are several."""
    kind, _, network = name.partition("-")
    return " ".join(filter(None, [CAPTIONS[kind], network and f"{network.replace('-', ', ')}."]))


def _of_each_network(
    name: str, picture: Callable[[Sequence[Row]], Figure | None], rows: Sequence[Row]
) -> dict[str, Figure | None]:
    networks: dict[str, list[Row]] = {}
    for row in rows:
        networks.setdefault(f"{row['model']}-{row['dataset']}", []).append(row)
    if len(networks) == 1:
        return {name: picture(rows)}
    return {f"{name}-{network}": picture(some) for network, some in networks.items()}


def _rows(tables: Mapping[str, Table], name: str) -> Sequence[Row]:
    return tables[name].rows if name in tables else []


def _curves(group: Group, root: Path) -> dict[str, np.ndarray]:
    """Metric -> [seeds, epochs], of what all finished seeds have."""
    found = [curve for run in group.done.values() if (curve := read_curve(root / run.path))]
    names = set.intersection(*map(set, found)) if found else set()
    least = min((len(curve["epoch"]) for curve in found), default=0)
    return {name: np.array([curve[name][:least] for curve in found]) for name in names}
