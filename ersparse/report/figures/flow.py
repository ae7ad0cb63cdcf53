"""What flow repair is for: channels without an edge and weights off every path, over sparsities (section 2, A.1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from ersparse.report.figures.density import STYLES
from ersparse.runs.plan import Plan
from ersparse.sparse.mask import density_of
from ersparse.sparse.reachability import effective_density


@dataclass(frozen=True)
class Flow:
    """One drawn network.

    Attributes:
        sparsity: asked for.
        zero_in, zero_out: output channels without an input, input channels without an output, as drawn.
        channels: of both kinds together.
        kept: density after repair.
        effective: density on a path from input to output, after repair.
    """

    sparsity: float
    zero_in: int
    zero_out: int
    channels: int
    kept: float
    effective: float

    @property
    def on_paths(self) -> float:
        """Of the kept weights, those that lie on a path."""
        return self.effective / self.kept if self.kept else 0.0


def measure(plan: Plan) -> Flow:
    """Draws and repairs the plan's source network."""
    layers, steps = plan.layers, plan.steps
    assert steps is not None
    masks, counts = plan.source.repair(plan.source.draw())
    return Flow(
        1 - plan.nominal,
        sum(count.zero_in for count in counts.values()),
        sum(count.zero_out for count in counts.values()),
        sum(layer.n_in + layer.n_out for layer in layers),
        density_of(masks),
        effective_density(masks, layers, steps),
    )


def table(drawn: Mapping[str, Sequence[Flow]], repaired: Mapping[str, Sequence[Flow]], repair: str) -> str:
    """One line for each option and sparsity; `drawn` without repair, `repaired` with it."""
    lines = [
        f"{'':12}{'':>10}{'channels without an edge':>28}{'kept weights on a path':>26}{'density':>12}",
        f"{'':12}{'sparsity':>10}{'in':>14}{'out':>14}{'as drawn':>14}{repair:>12}{repair:>12}",
    ]
    for option, flows in drawn.items():
        for before, after in zip(flows, repaired[option], strict=True):
            lines.append(
                f"{option:12}{before.sparsity:>10.5g}{before.zero_in:>14,}{before.zero_out:>14,}"
                f"{before.on_paths:>14.4f}{after.on_paths:>12.4f}{after.kept:>12.5g}"
            )
    return "\n".join(lines)


def plot(
    drawn: Mapping[str, Sequence[Flow]], repaired: Mapping[str, Sequence[Flow]], repair: str, title: str, path: Path
) -> None:
    """Two panels in a PNG: channels without an edge, and the share of kept weights that lie on a path."""
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for option, flows in drawn.items():
        color, marker = STYLES.get(option, ("#000000", "."))
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
        axes.set_xscale("log")
        axes.invert_xaxis()
        axes.set_xlabel("density (sparser to the right)")
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    figure.suptitle(title)
    figure.savefig(path, dpi=130)
