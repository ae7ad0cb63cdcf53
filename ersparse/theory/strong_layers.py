"""Construction of the layers of a strong ticket: the input-copy layer, and layers of subset sums (A.2)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ersparse.errors import UserError
from ersparse.theory.error_tolerances import TargetBounds
from ersparse.theory.networks import AffineLayer
from ersparse.theory.subset_sum import solve
from ersparse.theory.widths import Floats

UNUSED = -1  # block of a source neuron that represents nothing
CONSTANT_BLOCKS = 2  # blocks of constant neurons in each layer: every second neuron has a positive bias
SUBSET_SIZE = 22  # numbers of an exact subset sum: 22 numbers reach errors of about 1e-6


class ToleranceNotMet(UserError):
    """Error of a target parameter that no subset of the drawn weights approximates within its tolerance.

    Attributes:
        layer: layer of the target, 1..L.
        out: output neuron of the parameter.
    """

    def __init__(self, layer: int, out: int, error: float, tolerance: float, copies: int) -> None:
        self.layer, self.out = layer, out
        super().__init__(
            f"layer {layer}: no copy of neuron {out} is within the tolerance {tolerance:.3g}, the smallest error is "
            f"{error:.3g}; layer {layer - 1} must have more than {copies} copies"
        )


@dataclass(frozen=True)
class AffineNeurons:
    """Neurons of one source layer as affine functions on the input box: scale * x_block + offset, up to an error.

    Attributes:
        block: index of the target neuron or input that a source neuron copies; the number of target neurons marks a
            constant neuron, and `UNUSED` an unused one.
        scale: factor of the target neuron or input.
        offset: additive constant.
        error: upper bound of the deviation over the input box.
    """

    block: NDArray[np.int64]
    scale: Floats
    offset: Floats
    error: Floats


def copy_inputs(
    weight: Floats, bias: Floats, mask: NDArray[np.bool_], low: float, high: float
) -> tuple[NDArray[np.bool_], AffineNeurons]:
    """Prune layer 0 so that each neuron copies one input, is constant, or is unused.

    A neuron that copies an input keeps a single edge, along which its ReLU is linear on the whole box. Among the inputs
    that a neuron can copy, and the constants if its bias is positive, it is assigned to the one with the fewest copies;
    the constants count as `CONSTANT_BLOCKS` inputs.

    Args:
        weight: [neurons, inputs].
        bias: [neurons].
        mask: drawn edges, [neurons, inputs].
        low: lower end of the input interval.
        high: upper end of the input interval.

    Returns:
        The kept edges, [neurons, inputs], and the functions that the neurons compute.
    """
    linear = mask & (bias[:, None] + np.minimum(weight * low, weight * high) >= 0)
    candidates = np.column_stack([linear, bias > 0])
    assigned, inputs = np.zeros(candidates.shape[1]), weight.shape[1]
    share = np.append(np.ones(inputs), 1 / CONSTANT_BLOCKS)
    block = np.full(len(weight), UNUSED)
    for neuron in np.flatnonzero(candidates.any(1)):
        block[neuron] = min(np.flatnonzero(candidates[neuron]), key=lambda index: assigned[index])
        assigned[block[neuron]] += share[block[neuron]]
    kept = block[:, None] == np.arange(inputs)
    return kept, AffineNeurons(block, (weight * kept).sum(1), bias, np.zeros(len(bias)))


class LayerBuilder:
    """Builder of one layer of the ticket: it solves a subset sum for each parameter of each copy of each neuron."""

    def __init__(
        self,
        layer: int,
        target: AffineLayer,
        bounds: TargetBounds,
        weight: Floats,
        bias: Floats,
        mask: NDArray[np.bool_],
        previous: AffineNeurons,
    ) -> None:
        self.layer, self.weight, self.bias, self.mask, self.previous = layer, weight, bias, mask, previous
        self.target_weight, self.target_bias = target.weight.double().numpy(), target.bias.double().numpy()
        self.activation_bounds = bounds.activation_bounds[layer - 1]

    def build(
        self, copies: int, tolerance: float, previous_copies: int
    ) -> tuple[NDArray[np.bool_], AffineNeurons, float]:
        """Return the kept edges, the functions of the neurons, and the largest parameter error of the used copies.

        Args:
            copies: copies of each target neuron in this layer.
            tolerance: largest parameter error of a copy that is used.
            previous_copies: copies in the layer below, for the error message.

        Raises:
            ToleranceNotMet: a target neuron has no copy within the tolerance.
        """
        outputs, neurons = len(self.target_weight), len(self.weight)
        kept, block, error = np.zeros(self.mask.shape, dtype=bool), np.full(neurons, UNUSED), np.zeros(neurons)
        block[outputs * copies :] = np.where(self.bias[outputs * copies :] > 0, outputs, UNUSED)
        largest = 0.0
        for out in range(outputs):
            smallest = np.inf
            for neuron in range(out * copies, (out + 1) * copies):
                edges, worst, deviation = self.approximate(neuron, out, tolerance)
                smallest = min(smallest, worst)
                if worst <= tolerance:
                    kept[neuron], block[neuron], error[neuron], largest = edges, out, deviation, max(largest, worst)
            if smallest > tolerance:
                raise ToleranceNotMet(self.layer, out, smallest, tolerance, previous_copies)
        constant = block == outputs
        scale, offset = np.where(constant, 0.0, 1.0), np.where(constant, self.bias, 0.0)
        return kept, AffineNeurons(block, scale, offset, error), largest

    def approximate(self, neuron: int, out: int, tolerance: float) -> tuple[NDArray[np.bool_], float, float]:
        """Select the edges with which `neuron` approximates target neuron `out`.

        Returns:
            The kept edges, the largest parameter error, and an upper bound of the deviation over the input box.
        """
        kept, worst = np.zeros(len(self.previous.block), dtype=bool), 0.0
        deviation, rest = 0.0, float(self.target_bias[out] - self.bias[neuron])
        for into in np.flatnonzero(self.target_weight[out]):
            value = float(self.target_weight[out, into])
            edges, error = self._subset(neuron, int(into), self.previous.scale, value, tolerance)
            kept |= edges
            rest -= float(self.weight[neuron, edges] @ self.previous.offset[edges])
            worst, deviation = max(worst, error), deviation + error * float(self.activation_bounds[into])
        constants = self.target_weight.shape[1]
        edges, error = self._subset(neuron, constants, self.previous.offset, rest, tolerance)
        kept |= edges
        deviation += error + float(np.abs(self.weight[neuron, kept]) @ self.previous.error[kept])
        return kept, max(worst, error), deviation

    def _subset(
        self, neuron: int, block: int, scale: Floats, value: float, tolerance: float
    ) -> tuple[NDArray[np.bool_], float]:
        """Select edges from the neurons of `block` with a sum of weight * scale near `value`, and return its error."""
        base = np.flatnonzero(self.mask[neuron] & (self.previous.block == block))
        base = base[np.argsort(np.abs(self.previous.offset[base]) / np.abs(scale[base]), kind="stable")]
        some, chosen = base[:SUBSET_SIZE], base[:0]
        # Few edges are tried first, because the offset of each edge must be compensated by the constants.
        for some in (base[:SUBSET_SIZE], base):
            terms = self.weight[neuron, some] * scale[some]
            chosen = some[solve(terms, value, min(tolerance, 1e-6), exact=SUBSET_SIZE)]
            error = abs(value - float(self.weight[neuron, chosen] @ scale[chosen]))
            if error <= tolerance:
                break
        edges = np.zeros(len(self.previous.block), dtype=bool)
        edges[chosen] = True
        return edges, error
