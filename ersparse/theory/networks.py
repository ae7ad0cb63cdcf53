"""Target and source networks: chains of linear layers, or of convolutions, with ReLU between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ersparse.errors import UserError
from ersparse.sparse.layers import prunable_layers
from ersparse.sparse.mask import Masks, draw_bernoulli
from ersparse.sparse.rng import generator


@dataclass(frozen=True)
class Stage:
    """One layer of a chain: h = W x + b, or W * x + b.

    Attributes:
        weight: [outputs, inputs, *kernel]; no kernel is a linear layer.
        bias: [outputs].
        stride, padding: of a convolution with zero padding, by dimension.
    """

    weight: Tensor
    bias: Tensor
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)

    def widened(self, out: int, into: int) -> nn.Module:
        """An unfilled layer with `out` copies of each output and `into` of each input."""
        outputs, inputs, *kernel = self.weight.shape
        if not kernel:
            return nn.Linear(inputs * into, outputs * out, dtype=self.weight.dtype)
        size = (kernel[0], kernel[1])
        return nn.Conv2d(inputs * into, outputs * out, size, self.stride, self.padding, dtype=self.weight.dtype)


def stages_of(target: nn.Module) -> list[Stage]:
    """The layers of a target that the constructions cover.

    Args:
        target: an nn.Sequential of Linear, or of Conv2d, with ReLU between them and none after the last.

    Raises:
        UserError: it has a part that they do not cover.
    """
    modules = list(target) if isinstance(target, nn.Sequential) else [target]
    for place, module in enumerate(modules):
        if place % 2 and not isinstance(module, nn.ReLU):
            raise UserError(f"target: {_name(module)} at {place}, must be ReLU between two layers")
        if place % 2 == 0 and not isinstance(module, nn.Linear | nn.Conv2d):
            raise UserError(f"target: {_name(module)} at {place}, must be Linear or Conv2d")
        if isinstance(module, nn.Conv2d) and (
            module.groups != 1 or set(module.dilation) != {1} or module.padding_mode != "zeros"
        ):
            raise UserError(f"target: {module} at {place}, must have no groups, no dilation, and zeros for padding")
    if len(modules) % 2 == 0 or len({type(module) for module in modules[::2]}) != 1:
        raise UserError(
            "target: must be Linear layers alone or Conv2d alone, with ReLU between them and none at the end"
        )
    return [_stage(module) for module in modules[::2]]


def _stage(module: nn.Module) -> Stage:
    assert isinstance(module, nn.Linear | nn.Conv2d)
    weight = module.weight.detach()
    bias = torch.zeros(len(weight), dtype=weight.dtype) if module.bias is None else module.bias.detach()
    if isinstance(module, nn.Linear):
        return Stage(weight, bias)
    if isinstance(module.padding, str):
        raise UserError(f"target: padding={module.padding}, must be given in pixels")
    return Stage(weight, bias, (module.stride[0], module.stride[1]), (module.padding[0], module.padding[1]))


def _name(module: nn.Module) -> str:
    return type(module).__name__


def chain(layers: Sequence[nn.Module]) -> nn.Sequential:
    """`layers` with ReLU between them."""
    return nn.Sequential(*[part for layer in layers for part in (layer, nn.ReLU())][:-1])


def widened(stages: Sequence[Stage], copies: Sequence[int]) -> nn.Sequential:
    """The source network, unfilled: copies[l] neurons or channels for each of stage l; its inputs have one each."""
    into = [1, *copies[:-1]]
    return chain([stage.widened(*sizes) for stage, *sizes in zip(stages, copies, into, strict=True)])


def draw_masks(source: nn.Module, p: Sequence[float], seed: int) -> Masks:
    """The masks of an ER source: each weight of layer l is there with probability p[l]."""
    layers = prunable_layers(source)
    return {
        layer.name: draw_bernoulli(layer, density, generator(seed, layer.name))
        for layer, density in zip(layers, p, strict=True)
    }


def without_dead_ends(masks: Masks) -> Masks:
    """The masks of a chain without the edges into neurons or channels that nothing goes on from."""
    found: Masks = {}
    onwards: Tensor | None = None
    for name in reversed(masks):
        mask = masks[name]
        if onwards is not None:
            mask = mask & onwards.reshape(-1, *[1] * (mask.ndim - 1))
        found[name] = mask
        onwards = mask.flatten(2).any(2).any(0) if mask.ndim > 2 else mask.any(0)
    return {name: found[name] for name in masks}


def random_target(
    widths: Sequence[int],
    density: float,
    random: np.random.Generator,
    kernels: Sequence[int] = (),
    stride: int = 1,
    padded: bool = False,
) -> nn.Sequential:
    """A float64 target with He-scaled normal weights, kept with probability `density`, and normal biases.

    Args:
        widths: neurons or channels, the inputs first.
        kernels: one odd size a layer for convolutions; empty for linear layers.
        padded: zero padding that keeps the size at stride 1.
    """
    layers: list[nn.Module] = []
    for place, (inputs, outputs) in enumerate(pairwise(widths)):
        layer: nn.Linear | nn.Conv2d = nn.Linear(inputs, outputs, dtype=torch.float64)
        if kernels:
            size = kernels[place]
            layer = nn.Conv2d(inputs, outputs, size, stride, size // 2 if padded else 0, dtype=torch.float64)
        shape, scale = tuple(layer.weight.shape), np.sqrt(2 / (density * layer.weight[0].numel()))
        weight = scale * random.standard_normal(shape) * (random.random(shape) < density)
        layer.weight.data = torch.from_numpy(weight)
        layer.bias = nn.Parameter(torch.from_numpy(0.5 * random.standard_normal(outputs)))
        layers.append(layer)
    return chain(layers)


def needed_weights(stages: Sequence[Stage]) -> list[NDArray[np.int64]]:
    """For each layer [outputs, inputs], how many of the kernel's weights are not zero."""
    return [
        (stage.weight.flatten(2) if stage.weight.ndim > 2 else stage.weight[..., None]).ne(0).sum(2).numpy()
        for stage in stages
    ]


def largest_difference(first: nn.Module, second: nn.Module, inputs: Tensor) -> float:
    """max |first(x) - second(x)| over a batch of inputs."""
    with torch.no_grad():
        return float((first(inputs) - second(inputs)).abs().max())
