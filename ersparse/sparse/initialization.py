"""Initial weights and scores.

Weights may be scaled by the density of their layer (Evci et al. 2022, *Gradient flow in sparse neural networks*).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from ersparse.sparse.layers import Layer, prunable_layers, prunable_weights
from ersparse.sparse.rng import generator

N = TypeVar("N", bound=nn.Module)


def scaled_weight(mask: Tensor, mode: str, random: np.random.Generator) -> Tensor:
    """Draw normal weights with variance 2 / fan-in, where the fan-in counts kept weights only.

    Args:
        mask: mask of the layer, with one row for each output channel (`Layer.to_rows`).
        mode: "layer" uses the layer's mean fan-in, that is, the dense fan-in times the realised density; "neuron" uses
            the fan-in of each output channel. A channel with fan-in 0 has no weights to scale.
        random: the random number generator.

    Returns:
        float32 weights in the shape of `mask`, 0 where it removes.
    """
    fan_in = mask.flatten(1).sum(1).double()
    if mode == "layer":
        fan_in = fan_in.mean().expand_as(fan_in)
    std = (2 / torch.where(fan_in > 0, fan_in, 1.0)).sqrt().reshape(-1, *[1] * (mask.dim() - 1))
    return (torch.from_numpy(random.standard_normal(mask.shape)) * std * mask).float()


def draw_weights(module: nn.Module, densities: Sequence[float], how: str, seed: int) -> None:
    """Draw every prunable weight of `module` anew, with variance 2 / (fan-in * density); embeddings are not.

    The values follow from `seed` and the layer's name alone.

    Args:
        module: the network; its weights change in place.
        densities: density of each layer that scales its fan-in; all 1 for the dense fan-in.
        how: "kaiming_normal", or "signed_constant": the standard deviation with a random sign.
        seed: seed of the weights.
    """
    pairs = zip(prunable_layers(module), prunable_weights(module).values(), densities, strict=True)
    for layer, holder, density in pairs:
        random = generator(seed, layer.name, "init")
        std = (2 / (layer.fan_in * density)) ** 0.5 if density else 0.0
        drawn = random.standard_normal(layer.shape)
        values = drawn if how == "kaiming_normal" else np.sign(drawn)
        with torch.no_grad():
            holder.weight.copy_(torch.from_numpy(std * values))


@torch.no_grad()
def transplant(network: N, weights: Mapping[str, Tensor], what: str) -> N:
    """Give the prunable weights of a network the signs, or the magnitudes, of others (Gadhikar & Burkholz 2024).

    Args:
        network: the network with its own weights; those with a counterpart change in place.
        weights: other weights by name, such as those of a trained network. Where they are zero, as removed weights are,
            the network keeps its own.
        what: "signs" takes their signs and keeps the network's magnitudes; "magnitudes" the reverse.

    Returns:
        The network itself.
    """
    for name, held in prunable_weights(network, embeddings=True).items():
        if name not in weights:
            continue
        own, other = held.weight, weights[name].to(held.weight)
        mixed = own.abs().copysign(other) if what == "signs" else other.abs().copysign(own)
        own.copy_(torch.where(other == 0, own, mixed))
    return network


def random_scores(layer: Layer, how: str, seed: int) -> Tensor:
    """Draw edge-popup scores in the shape of the layer, with b = 1 / sqrt(fan-in).

    Args:
        layer: the layer.
        how: "kaiming_uniform" is uniform on [-b, b], that is, Kaiming uniform with a = sqrt(5), PyTorch's default for
            weights; "constant" sets all scores to b.
        seed: seed of the scores.
    """
    bound = layer.fan_in**-0.5
    if how == "constant":
        return torch.full(layer.shape, bound)
    drawn = generator(seed, layer.name, "scores").uniform(-bound, bound, layer.shape)
    return torch.from_numpy(drawn).float()
