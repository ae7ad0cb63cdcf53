"""The source network: layer densities in, repaired masks and what was counted out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor

from ersparse.sparse import flow_repair, mask
from ersparse.sparse.flow_repair import Counts
from ersparse.sparse.layers import Layer
from ersparse.sparse.mask import Masks
from ersparse.sparse.rng import generator

Repair = Callable[[Tensor, Layer, float, np.random.Generator], tuple[Tensor, Counts]]
REPAIRS: dict[str, Repair] = {
    name: getattr(flow_repair, name) for name in ("none", "add", "move", "resample", "released")
}
SAMPLERS = {"bernoulli": mask.draw_bernoulli, "exact": mask.draw_exact}


class Source(Protocol):
    """Where a run's masks come from.

    Attributes:
        layers: the prunable layers.
        densities: asked for each of them, before drawing and repair.
        nominal: the global density asked for.
        flow: how channels without an edge are repaired, by name or as a function; "none" if they are not.
    """

    @property
    def layers(self) -> list[Layer]: ...

    @property
    def densities(self) -> list[float]: ...

    @property
    def nominal(self) -> float: ...

    @property
    def flow(self) -> str | Repair: ...

    def draw(self) -> Masks: ...

    def repair(self, masks: Mapping[str, Tensor]) -> tuple[Masks, dict[str, Counts]]: ...


@dataclass(frozen=True)
class DenseSource:
    """A dense network: every density is 1, and there are no masks."""

    layers: list[Layer]
    nominal: float = 1.0
    flow: str = "none"

    @property
    def densities(self) -> list[float]:
        return [1.0] * len(self.layers)

    def draw(self) -> Masks:
        return {}

    def repair(self, masks: Mapping[str, Tensor]) -> tuple[Masks, dict[str, Counts]]:
        return dict(masks), {}


@dataclass(frozen=True)
class ERSource:
    """An Erdős–Rényi network (section 2): every layer drawn at its density, then repaired (A.1).

    Each layer has random numbers of its own, so that its mask depends on (seed, its name) and nothing else.
    """

    layers: list[Layer]
    densities: list[float]
    nominal: float
    seed: int
    sampling: str = "bernoulli"
    flow: str | Repair = "move"

    def draw(self) -> Masks:
        """The masks as drawn."""
        sample = SAMPLERS[self.sampling]
        return {
            layer.name: sample(layer, p, generator(self.seed, layer.name))
            for layer, p in zip(self.layers, self.drawing_densities(), strict=True)
        }

    def repair(self, masks: Mapping[str, Tensor]) -> tuple[Masks, dict[str, Counts]]:
        """Masks in which, unless flow="none", every channel has an edge, and the counts of each layer."""
        repair = REPAIRS[self.flow] if isinstance(self.flow, str) else self.flow
        repaired, counts = {}, {}
        for layer, p in zip(self.layers, self.drawing_densities(), strict=True):
            random = generator(self.seed, layer.name, "repair")
            repaired[layer.name], counts[layer.name] = repair(masks[layer.name], layer, p, random)
        return repaired, counts

    def drawing_densities(self) -> list[float]:
        """What each layer is drawn at: the densities asked for, lower where resample will add.

        Raises:
            FlowError: flow="resample" cannot meet a layer's density.
        """
        if self.flow != "resample":
            return self.densities
        return [flow_repair.conditioned_density(layer, p) for layer, p in zip(self.layers, self.densities, strict=True)]


@dataclass(frozen=True)
class TicketSource:
    """The masks of an earlier run or of a pruner, as they are.

    Attributes:
        control: "shuffle" moves each layer's weights to random places.
        asked: the global density asked for; None where nobody asked.
    """

    layers: list[Layer]
    masks: Masks
    seed: int
    control: str = "none"
    asked: float | None = None
    flow: str = "none"

    @property
    def densities(self) -> list[float]:
        return [mask.density_of({layer.name: self.masks[layer.name]}) for layer in self.layers]

    @property
    def nominal(self) -> float:
        return mask.density_of(self.masks) if self.asked is None else self.asked

    def draw(self) -> Masks:
        if self.control != "shuffle":
            return dict(self.masks)
        return {name: mask.shuffled(m, generator(self.seed, name, "shuffle")) for name, m in self.masks.items()}

    def repair(self, masks: Mapping[str, Tensor]) -> tuple[Masks, dict[str, Counts]]:
        """Nothing is repaired; the counts say what a repair would have found."""
        random = generator(self.seed)
        return dict(masks), {
            layer.name: flow_repair.none(masks[layer.name], layer, 1.0, random)[1] for layer in self.layers
        }
