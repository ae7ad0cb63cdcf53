"""Figure of flow over sparsities, with and without repair, for `ersparse density --flow`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ersparse.report.figures.style import STYLES, UNKNOWN

if TYPE_CHECKING:  # imports torch
    from ersparse.report.analysis.flow import FlowCounts


def plot_flow(
    drawn: Mapping[str, Sequence[FlowCounts]],
    repaired: Mapping[str, Sequence[FlowCounts]],
    repair: str,
    title: str,
    path: Path,
) -> None:
    """Plot two panels and save them to `path`: channels without an edge, and the fraction of kept weights on a path.

    Args:
        drawn: option -> counts without repair, for each sparsity.
        repaired: the same networks with repair.
        repair: value of `sparsity.flow`.
        title: the title of the figure.
        path: the path of the file; its suffix decides the format.
    """
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for option, flows in drawn.items():
        color, marker = STYLES.get(option, UNKNOWN)
        style = {"color": color, "marker": marker, "markersize": 5, "linewidth": 1.5}
        density = [1 - flow.sparsity for flow in flows]
        left.plot(density, [(f.zero_in + f.zero_out) / f.channels for f in flows], label=option, **style)
        right.plot(density, [f.on_paths for f in flows], linestyle=":", **style)
        right.plot(density, [f.on_paths for f in repaired[option]], **style)
    right.plot([], [], color="#555555", linestyle=":", label="as drawn")
    right.plot([], [], color="#555555", label=f"repaired ({repair})")
    left.set(ylabel="channels without an edge, as drawn (fraction)")
    right.set(ylabel="kept weights on a path (fraction)", ylim=(-0.02, 1.05))
    for axes in (left, right):
        _density_axis(axes)
    figure.suptitle(title)
    figure.savefig(path, dpi=130)


def _density_axis(axes: Axes) -> None:
    axes.set_xscale("log")
    axes.invert_xaxis()
    axes.set_xlabel("density (sparser to the right)")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
