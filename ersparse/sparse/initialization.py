"""Initial weights, which may know how sparse they are (Evci et al. 2022, *Gradient flow in sparse neural networks*)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from ersparse.sparse.layers import Layer, prunable_layers, prunable_modules
from ersparse.sparse.rng import generator


def scaled_weight(mask: Tensor, mode: str, random: np.random.Generator) -> Tensor:
    """Normal weights with variance 2 / fan-in, the fan-in counting kept weights only.

    Args:
        mask: [n_out, n_in / groups, *kernel].
        mode: "layer" takes the layer's mean fan-in, fan_in p_l with the realised p_l; "neuron" each output channel's
            own. A fan-in of 0 has no weight to scale.

    Returns:
        float32 weights in the shape of `mask`, 0 where it removes.
    """
    fan_in = mask.flatten(1).sum(1).double()
    if mode == "layer":
        fan_in = fan_in.mean().expand_as(fan_in)
    std = (2 / torch.where(fan_in > 0, fan_in, 1.0)).sqrt().reshape(-1, *[1] * (mask.dim() - 1))
    return (torch.from_numpy(random.standard_normal(mask.shape)) * std * mask).float()


def draw_weights(module: nn.Module, densities: Sequence[float], how: str, seed: int) -> None:
    """Draws every prunable weight anew, with variance 2 / (fan-in * density); the source is (seed, name) alone.

    Args:
        densities: by which each layer's fan-in is counted; all 1 for that of the dense layer.
        how: "kaiming_normal", or "signed_constant": the standard deviation with a random sign.
    """
    pairs = zip(prunable_layers(module), prunable_modules(module).values(), densities, strict=True)
    for layer, holder, density in pairs:
        random = generator(seed, layer.name, "init")
        std = (2 / (layer.fan_in * density)) ** 0.5 if density else 0.0
        drawn = random.standard_normal(layer.shape)
        values = drawn if how == "kaiming_normal" else np.sign(drawn)
        with torch.no_grad():
            holder.weight.copy_(torch.from_numpy(std * values))


def random_scores(layer: Layer, how: str, seed: int) -> Tensor:
    """Scores in the shape of the layer: uniform on [-b, b] with b = 1 / sqrt(fan-in), or all b ("constant").

    That is Kaiming uniform with a = sqrt(5), PyTorch's default for weights.
    """
    bound = layer.fan_in**-0.5
    if how == "constant":
        return torch.full(layer.shape, bound)
    drawn = generator(seed, layer.name, "scores").uniform(-bound, bound, layer.shape)
    return torch.from_numpy(drawn).float()
