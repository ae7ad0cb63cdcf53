"""Strong tickets, built: a mask alone makes a random ER network approximate a target (A.2).

Weights and biases stay as drawn, and no bias is pruned. On the inputs' box each neuron of the source that is used is
scale * (a target neuron or input) + offset. A target weight is then the sum of some edges' weight * scale, found as a
subset sum. What their offsets and the drawn bias leave of the target's bias is one more subset sum, over neurons that
are constant: all their edges are pruned, and their bias is positive.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ersparse.errors import UserError
from ersparse.sparse.layers import prunable_modules
from ersparse.sparse.mask import Masks, attach, enforce
from ersparse.sparse.rng import generator
from ersparse.theory.error_tolerances import Shape, shape_of
from ersparse.theory.networks import Stage, chain, draw_masks, stages_of, without_dead_ends
from ersparse.theory.subset_sum import solve
from ersparse.theory.widths import Floats, check_layers

UNUSED = -1
CONSTANTS = 2  # blocks of neurons for constants: one in two has a positive bias
WINDOW = 22  # numbers that a subset sum solves at once: 22 reach errors of about 1e-6


class NotReached(UserError):
    """A target parameter that no subset of the drawn weights approximates well enough.

    Attributes:
        layer: of the target, 1..L.
        out: the output neuron.
    """

    def __init__(self, layer: int, out: int, error: float, tolerance: float, copies: int) -> None:
        self.layer, self.out = layer, out
        super().__init__(
            f"layer {layer}: no copy of neuron {out} is within {tolerance:.3g}, the best is {error:.3g} off; "
            f"layer {layer - 1} must have more than {copies} copies"
        )


@dataclass(frozen=True)
class StrongTicket:
    """A random network whose mask approximates its target.

    Attributes:
        network: weights and biases as drawn from U[-1, 1], the ticket's masks attached.
        source_masks: as drawn; masks: the ticket's, each a subset.
        errors: for each layer 1..L the largest error of a parameter that is used.
        certified: a bound on |f_T - f_S| over the box, from the errors of all parameters.
    """

    network: nn.Sequential
    source_masks: Masks
    masks: Masks
    errors: list[float]
    certified: float


@dataclass(frozen=True)
class Carried:
    """What the neurons of one source layer are on the box: scale * x_owner + offset, up to an error.

    Attributes:
        owner: the target neuron or input; their number for a constant, `UNUSED` for none.
        error: largest |deviation| over the box.
    """

    owner: NDArray[np.int64]
    scale: Floats
    offset: Floats
    error: Floats


def random_source(widths: Sequence[int], copies: Sequence[int], seed: int) -> nn.Sequential:
    """Linear layers with weights and biases from U[-1, 1]: copies of each target neuron, and the constants'."""
    random, into = generator(seed, "weights"), widths[0]
    layers: list[nn.Module] = []
    for layer, (n, q) in enumerate(zip(widths, copies, strict=True)):
        outputs = (n + CONSTANTS) * q if layer < len(widths) - 1 else n
        linear = nn.Linear(into, outputs, dtype=torch.float64)
        linear.weight.data = torch.from_numpy(random.uniform(-1, 1, (outputs, into)))
        linear.bias.data = torch.from_numpy(random.uniform(-1, 1, outputs))
        layers.append(linear)
        into = outputs
    return chain(layers)


def strong_ticket(
    target: nn.Module,
    copies: Sequence[int],
    p: Sequence[float],
    seed: int,
    box: tuple[float, float] = (-1.0, 1.0),
    tolerances: Sequence[float] | None = None,
) -> StrongTicket:
    """Draws a random ER source and prunes it to approximate the target.

    Args:
        target: Linear layers with ReLU between them, see `stages_of`.
        copies: q_0..q_L; layer l < L has (n_l + 2) q_l neurons, two blocks being for constants; q_L is 1.
        p: densities p_0..p_L.
        tolerances: for layers 1..L; a copy that has a parameter further off is not used. None takes the best there is.

    Raises:
        NotReached: no copy of some neuron is within the tolerance.
        UserError: the target is not covered, or `copies` do not fit it.
    """
    stages = stages_of(target)
    _check(stages, copies, p)
    shape = shape_of([s.weight.double().numpy() for s in stages], [s.bias.double().numpy() for s in stages], *box)
    network = random_source(shape.widths, copies, seed)
    drawn, modules = draw_masks(network, p, seed), prunable_modules(network)
    names = list(modules)
    values = [(modules[name].weight.detach().numpy(), modules[name].bias.detach().numpy()) for name in names]  # type: ignore[union-attr]
    kept, carried = copy_inputs(*values[0], drawn[names[0]].numpy(), *box)
    masks, errors = {names[0]: torch.from_numpy(kept)}, []
    for layer, stage in enumerate(stages, 1):
        builder = LayerBuilder(layer, stage, shape, *values[layer], drawn[names[layer]].numpy(), carried)
        tolerance = np.inf if tolerances is None else tolerances[layer - 1]
        kept, carried, worst = builder.build(copies[layer], tolerance, copies[layer - 1])
        masks[names[layer]] = torch.from_numpy(kept)
        errors.append(worst)
    masks = without_dead_ends(masks)
    attach(network, masks)
    enforce(network)
    return StrongTicket(network, drawn, masks, errors, float(carried.error.max()))


def _check(stages: Sequence[Stage], copies: Sequence[int], p: Sequence[float]) -> None:
    if stages[0].weight.ndim != 2:
        raise UserError("target: Conv2d, must be Linear for a strong ticket")
    if len(copies) != len(stages) + 1 or copies[-1] != 1 or min(copies) < 1:
        raise UserError(f"copies={list(copies)}: must be {len(stages) + 1} numbers of 1 or more, the last 1")
    check_layers(copies[1:], p)


def copy_inputs(
    weight: Floats, bias: Floats, mask: NDArray[np.bool_], low: float, high: float
) -> tuple[NDArray[np.bool_], Carried]:
    """Layer 0: each neuron keeps one edge, along which its ReLU stays in its linear part on the box, or none.

    A neuron takes, of the inputs that it can serve (and the constants, if its bias is positive), the one served least,
    the constants counting for `CONSTANTS` inputs.
    """
    linear = mask & (bias[:, None] + np.minimum(weight * low, weight * high) >= 0)
    can = np.column_stack([linear, bias > 0])
    served, inputs = np.zeros(can.shape[1]), weight.shape[1]
    share = np.append(np.ones(inputs), 1 / CONSTANTS)
    owner = np.full(len(weight), UNUSED)
    for neuron in np.flatnonzero(can.any(1)):
        owner[neuron] = min(np.flatnonzero(can[neuron]), key=lambda one: served[one])
        served[owner[neuron]] += share[owner[neuron]]
    kept = owner[:, None] == np.arange(inputs)
    return kept, Carried(owner, (weight * kept).sum(1), bias, np.zeros(len(bias)))


class LayerBuilder:
    """One layer of the ticket: for every copy of every target neuron, a subset sum for each parameter."""

    def __init__(
        self,
        layer: int,
        stage: Stage,
        shape: Shape,
        weight: Floats,
        bias: Floats,
        mask: NDArray[np.bool_],
        below: Carried,
    ) -> None:
        self.layer, self.weight, self.bias, self.mask, self.below = layer, weight, bias, mask, below
        self.target, self.target_bias = stage.weight.double().numpy(), stage.bias.double().numpy()
        self.highest = shape.highest[layer - 1]

    def build(self, copies: int, tolerance: float, base: int) -> tuple[NDArray[np.bool_], Carried, float]:
        """The kept edges, what the neurons then carry, and the largest parameter error among the copies used."""
        outputs, neurons = len(self.target), len(self.weight)
        kept, owner, error = np.zeros(self.mask.shape, dtype=bool), np.full(neurons, UNUSED), np.zeros(neurons)
        owner[outputs * copies :] = np.where(self.bias[outputs * copies :] > 0, outputs, UNUSED)
        used = 0.0
        for out in range(outputs):
            best = np.inf
            for neuron in range(out * copies, (out + 1) * copies):
                edges, worst, deviation = self.approximate(neuron, out, tolerance)
                best = min(best, worst)
                if worst <= tolerance:
                    kept[neuron], owner[neuron], error[neuron], used = edges, out, deviation, max(used, worst)
            if best > tolerance:
                raise NotReached(self.layer, out, best, tolerance, base)
        constant = owner == outputs
        return kept, Carried(owner, np.where(constant, 0.0, 1.0), np.where(constant, self.bias, 0.0), error), used

    def approximate(self, neuron: int, out: int, tolerance: float) -> tuple[NDArray[np.bool_], float, float]:
        """Edges into `neuron` that make it target neuron `out`, the largest parameter error, the largest deviation."""
        kept, worst = np.zeros(len(self.below.owner), dtype=bool), 0.0
        deviation, rest = 0.0, float(self.target_bias[out] - self.bias[neuron])
        for into in np.flatnonzero(self.target[out]):
            edges, left = self._subset(neuron, int(into), self.below.scale, float(self.target[out, into]), tolerance)
            kept |= edges
            rest -= float(self.weight[neuron, edges] @ self.below.offset[edges])
            worst, deviation = max(worst, left), deviation + left * float(self.highest[into])
        edges, left = self._subset(neuron, self.target.shape[1], self.below.offset, rest, tolerance)
        kept |= edges
        deviation += left + float(np.abs(self.weight[neuron, kept]) @ self.below.error[kept])
        return kept, max(worst, left), deviation

    def _subset(
        self, neuron: int, owner: int, scale: Floats, value: float, tolerance: float
    ) -> tuple[NDArray[np.bool_], float]:
        """Edges from the neurons of `owner` whose weight * scale add up to nearly `value`, and how far they are off."""
        base = np.flatnonzero(self.mask[neuron] & (self.below.owner == owner))
        base = base[np.argsort(np.abs(self.below.offset[base]) / np.abs(scale[base]), kind="stable")]
        some, chosen = base[:WINDOW], base[:0]
        for some in (base[:WINDOW], base):  # few where few do: each brings an offset that others must take back
            chosen = some[solve(self.weight[neuron, some] * scale[some], value, min(tolerance, 1e-6), exact=WINDOW)]
            left = abs(value - float(self.weight[neuron, chosen] @ scale[chosen]))
            if left <= tolerance:
                break
        edges = np.zeros(len(self.below.owner), dtype=bool)
        edges[chosen] = True
        return edges, left
