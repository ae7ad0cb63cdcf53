"""Effect of flow repair on one drawn network: channels without an edge, and weights off every path (section 2, A.1)."""

from __future__ import annotations

from dataclasses import dataclass

from ersparse.runs.plan import Plan
from ersparse.sparse.mask import density_of
from ersparse.sparse.reachability import effective_density


@dataclass(frozen=True)
class FlowCounts:
    """Flow of one drawn network.

    Attributes:
        sparsity: nominal sparsity.
        zero_in: output channels of in-degree zero, as drawn.
        zero_out: input channels of out-degree zero, as drawn.
        channels: number of input and output channels of all layers.
        kept: density after repair.
        effective: density of the weights on a path from input to output, after repair.
    """

    sparsity: float
    zero_in: int
    zero_out: int
    channels: int
    kept: float
    effective: float

    @property
    def on_paths(self) -> float:
        """Fraction of the kept weights that lie on a path."""
        return self.effective / self.kept if self.kept else 0.0


def count_flow(plan: Plan) -> FlowCounts:
    """Draw and repair the plan's source network, and count its flow."""
    layers, graph = plan.layers, plan.graph
    assert graph is not None
    masks, counts = plan.source.repair(plan.source.draw())
    return FlowCounts(
        1 - plan.nominal,
        sum(count.zero_in for count in counts.values()),
        sum(count.zero_out for count in counts.values()),
        sum(layer.n_in + layer.n_out for layer in layers),
        density_of(masks),
        effective_density(masks, layers, graph),
    )
