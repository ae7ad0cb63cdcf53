"""Source networks: where the masks of a run come from, from layer densities to repaired masks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor

from ersparse.sparse import expanders, fan_in, flow_repair, mask
from ersparse.sparse.flow_repair import Counts
from ersparse.sparse.layers import Layer
from ersparse.sparse.mask import Masks
from ersparse.sparse.rng import generator

Repair = Callable[[Tensor, Layer, float, np.random.Generator], tuple[Tensor, Counts]]
REPAIRS: dict[str, Repair] = {
    name: getattr(flow_repair, name) for name in ("none", "add", "move", "resample", "released")
}
SAMPLERS = {"bernoulli": mask.draw_bernoulli, "exact": mask.draw_exact}
ROW_SAMPLERS = {"fan_in": fan_in.draw_rows, "ramanujan": expanders.draw_expander}
SAMPLINGS = (*SAMPLERS, *ROW_SAMPLERS)


class Source(Protocol):
    """The source network of a run.

    Attributes:
        layers: prunable layers, in network order.
        densities: nominal density of each layer, before drawing and repair.
        nominal: nominal global density.
        flow: the flow repair, by name or as a function; "none" leaves channels without an edge as drawn.
    """

    @property
    def layers(self) -> list[Layer]: ...

    @property
    def densities(self) -> list[float]: ...

    @property
    def nominal(self) -> float: ...

    @property
    def flow(self) -> str | Repair: ...

    def draw(self) -> Masks:
        """Return the masks as drawn, by layer name."""

    def repair(self, masks: Mapping[str, Tensor]) -> tuple[Masks, dict[str, Counts]]:
        """Return the masks after flow repair, and the counts of each layer."""


@dataclass(frozen=True)
class DenseSource:
    """A dense network: every density is 1, and there are no masks.

    Attributes:
        layers: prunable layers, in network order.
        nominal: nominal global density, 1.
        flow: "none".
    """

    layers: list[Layer]
    nominal: float = 1.0
    flow: str = "none"

    @property
    def densities(self) -> list[float]:
        """Density 1 for each layer."""
        return [1.0] * len(self.layers)

    def draw(self) -> Masks:
        """Return no masks."""
        return {}

    def repair(self, masks: Mapping[str, Tensor]) -> tuple[Masks, dict[str, Counts]]:
        """Return `masks` unchanged, without counts."""
        return dict(masks), {}


@dataclass(frozen=True)
class ERSource:
    """An Erdős–Rényi network (section 2): each layer is drawn at its density, and then repaired (appendix A.1).

    Each layer has its own random number generator, so its mask depends on the seed and the layer's name alone.

    Attributes:
        layers: prunable layers, in network order.
        densities: nominal density of each layer.
        nominal: nominal global density.
        seed: seed of the masks.
        sampling: "bernoulli", "exact", "fan_in" or "ramanujan".
        flow: the flow repair, by name or as a function; "none" or "move" with sampling="fan_in" or "ramanujan".
    """

    layers: list[Layer]
    densities: list[float]
    nominal: float
    seed: int
    sampling: str = "bernoulli"
    flow: str | Repair = "move"

    def draw(self) -> Masks:
        """Return the masks as drawn, by layer name."""
        if draw := ROW_SAMPLERS.get(self.sampling):
            counts = zip(self.layers, fan_in.fan_ins(self.layers, self.densities), strict=True)
            return {layer.name: draw(layer, count, generator(self.seed, layer.name)) for layer, count in counts}
        sample = SAMPLERS[self.sampling]
        return {
            layer.name: sample(layer, p, generator(self.seed, layer.name))
            for layer, p in zip(self.layers, self.drawing_densities(), strict=True)
        }

    def repair(self, masks: Mapping[str, Tensor]) -> tuple[Masks, dict[str, Counts]]:
        """Return masks in which every channel has an edge, unless flow="none", and the counts of each layer."""
        repair = REPAIRS[self.flow] if isinstance(self.flow, str) else self.flow
        if self.sampling in ROW_SAMPLERS and self.flow == "move":
            repair = fan_in.move_in_rows
        repaired, counts = {}, {}
        for layer, p in zip(self.layers, self.drawing_densities(), strict=True):
            random = generator(self.seed, layer.name, "repair")
            repaired[layer.name], counts[layer.name] = repair(masks[layer.name], layer, p, random)
        return repaired, counts

    def drawing_densities(self) -> list[float]:
        """Return the densities at which layers are drawn: the nominal ones, or lower ones for flow="resample".

        Raises:
            FlowError: flow="resample" cannot meet the density of a layer.
        """
        if self.flow != "resample":
            return self.densities
        return [flow_repair.conditioned_density(layer, p) for layer, p in zip(self.layers, self.densities, strict=True)]


@dataclass(frozen=True)
class TicketSource:
    """The given masks of an earlier run or of a pruner, without repair.

    Attributes:
        layers: prunable layers, in network order.
        masks: the masks by layer name.
        seed: seed of the shuffling control.
        control: "shuffle" permutes the mask of each layer at random; "none".
        asked: nominal global density; None takes the density of the masks.
        flow: "none".
    """

    layers: list[Layer]
    masks: Masks
    seed: int
    control: str = "none"
    asked: float | None = None
    flow: str = "none"

    @property
    def densities(self) -> list[float]:
        """Realised density of each layer."""
        return [mask.density_of({layer.name: self.masks[layer.name]}) for layer in self.layers]

    @property
    def nominal(self) -> float:
        """Nominal global density."""
        return mask.density_of(self.masks) if self.asked is None else self.asked

    def draw(self) -> Masks:
        """Return the masks by layer name, shuffled if `control` says so."""
        if self.control != "shuffle":
            return dict(self.masks)
        return {name: mask.shuffled(m, generator(self.seed, name, "shuffle")) for name, m in self.masks.items()}

    def repair(self, masks: Mapping[str, Tensor]) -> tuple[Masks, dict[str, Counts]]:
        """Return `masks` unchanged, with their counts of channels without an edge."""
        random = generator(self.seed)
        return dict(masks), {
            layer.name: flow_repair.none(masks[layer.name], layer, 1.0, random)[1] for layer in self.layers
        }
