"""Construction of strong tickets: a mask that makes a random ER network approximate a target (A.2).

Weights and biases stay as drawn, and no bias is pruned. On the input box each used neuron of the source network equals
scale * (a target neuron or input) + offset. A target weight is then approximated by a subset sum over edges, whose
terms are weight * scale. The difference between the target's bias and the drawn bias plus all offsets is one more
subset sum, over constant neurons: neurons whose edges are all pruned and whose bias is positive.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from ersparse.errors import UserError
from ersparse.sparse.layers import prunable_weights
from ersparse.sparse.mask import Masks, attach, enforce
from ersparse.sparse.rng import generator
from ersparse.theory.error_tolerances import target_bounds
from ersparse.theory.networks import AffineLayer, affine_layers, draw_masks, relu_chain, without_dead_ends
from ersparse.theory.strong_layers import CONSTANT_BLOCKS, LayerBuilder, copy_inputs
from ersparse.theory.widths import check_densities


@dataclass(frozen=True)
class StrongTicket:
    """A random network with a mask that makes it approximate its target.

    Attributes:
        network: weights and biases as drawn from U[-1, 1]; the ticket's masks are attached.
        source_masks: masks of the ER source network as drawn.
        masks: masks of the ticket, subsets of `source_masks`.
        errors: for each layer 1..L, the largest error of a parameter in the copies that are used.
        certified: upper bound of |f_T - f_S| over the input box, computed from the errors of all parameters.
    """

    network: nn.Sequential
    source_masks: Masks
    masks: Masks
    errors: list[float]
    certified: float


def random_source(widths: Sequence[int], copies: Sequence[int], seed: int) -> nn.Sequential:
    """Return a linear source network with weights and biases from U[-1, 1].

    Layer l < L has `copies[l]` copies of each target neuron and, for constants, `CONSTANT_BLOCKS` blocks of this size.
    """
    random, inputs = generator(seed, "weights"), widths[0]
    layers: list[nn.Module] = []
    for layer, (n, q) in enumerate(zip(widths, copies, strict=True)):
        outputs = (n + CONSTANT_BLOCKS) * q if layer < len(widths) - 1 else n
        linear = nn.Linear(inputs, outputs, dtype=torch.float64)
        linear.weight.data = torch.from_numpy(random.uniform(-1, 1, (outputs, inputs)))
        linear.bias.data = torch.from_numpy(random.uniform(-1, 1, outputs))
        layers.append(linear)
        inputs = outputs
    return relu_chain(layers)


def strong_ticket(
    target: nn.Module,
    copies: Sequence[int],
    p: Sequence[float],
    seed: int,
    box: tuple[float, float] = (-1.0, 1.0),
    tolerances: Sequence[float] | None = None,
) -> StrongTicket:
    """Draw a random ER source network and prune it so that it approximates the target.

    Args:
        target: Linear layers with a ReLU between two layers, of the form that `affine_layers` accepts.
        copies: q_0..q_L; layer l < L has (n_l + 2) q_l neurons, where two blocks are for constants; q_L is 1.
        p: densities p_0..p_L.
        seed: seed of weights, biases and source masks.
        box: interval of each input.
        tolerances: error tolerance of the parameters in layers 1..L; a copy with a larger error is not used. None uses
            every copy with the smallest errors that are found.

    Raises:
        ToleranceNotMet: no copy of some neuron is within the tolerance.
        UserError: the target is not supported, or `copies` or `p` do not fit it.
    """
    layers = affine_layers(target)
    _check(layers, copies, p)
    bounds = target_bounds(layers, *box)
    network = random_source(bounds.widths, copies, seed)
    drawn, weights = draw_masks(network, p, seed), prunable_weights(network)
    names = list(weights)
    modules: list[Any] = [weights[name].module for name in names]
    values = [(module.weight.detach().numpy(), module.bias.detach().numpy()) for module in modules]
    kept, neurons = copy_inputs(*values[0], drawn[names[0]].numpy(), *box)
    masks, errors = {names[0]: torch.from_numpy(kept)}, []
    for index, layer in enumerate(layers, 1):
        builder = LayerBuilder(index, layer, bounds, *values[index], drawn[names[index]].numpy(), neurons)
        tolerance = np.inf if tolerances is None else tolerances[index - 1]
        kept, neurons, largest = builder.build(copies[index], tolerance, copies[index - 1])
        masks[names[index]] = torch.from_numpy(kept)
        errors.append(largest)
    masks = without_dead_ends(masks)
    attach(network, masks)
    enforce(network)
    return StrongTicket(network, drawn, masks, errors, float(neurons.error.max()))


def _check(layers: Sequence[AffineLayer], copies: Sequence[int], p: Sequence[float]) -> None:
    if layers[0].weight.ndim != 2:
        raise UserError("target: Conv2d, must be Linear for a strong ticket")
    if len(copies) != len(layers) + 1 or copies[-1] != 1 or min(copies) < 1:
        raise UserError(f"copies={list(copies)}: must be {len(layers) + 1} numbers of 1 or more, the last 1")
    check_densities(copies[1:], p)
