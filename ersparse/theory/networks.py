"""Target and source networks: chains of linear or convolutional layers with a ReLU between two layers."""

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
class AffineLayer:
    """One layer of a chain before its ReLU: h = W x + b (linear) or h = W * x + b (convolution).

    Attributes:
        weight: [outputs, inputs, *kernel]; a linear layer has no kernel dimensions.
        bias: [outputs].
        stride: stride of the convolution, by dimension.
        padding: zero padding of the convolution in pixels, by dimension.
    """

    weight: Tensor
    bias: Tensor
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)

    def source_layer(self, output_copies: int, input_copies: int) -> nn.Module:
        """Return a freshly initialized module with several copies of each output and of each input."""
        outputs, inputs, *kernel = self.weight.shape
        inputs, outputs, dtype = inputs * input_copies, outputs * output_copies, self.weight.dtype
        if not kernel:
            return nn.Linear(inputs, outputs, dtype=dtype)
        return nn.Conv2d(inputs, outputs, (kernel[0], kernel[1]), self.stride, self.padding, dtype=dtype)


def affine_layers(target: nn.Module) -> list[AffineLayer]:
    """Return the layers of a target network that the constructions support.

    Args:
        target: an nn.Sequential of Linear layers, or of Conv2d layers, with a ReLU between two layers and none after
            the last; or a single such layer.

    Raises:
        UserError: the target has a module that the constructions do not support.
    """
    modules = list(target) if isinstance(target, nn.Sequential) else [target]
    for position, module in enumerate(modules):
        _check_module(module, position)
    if len(modules) % 2 == 0 or len({type(module) for module in modules[::2]}) != 1:
        raise UserError(
            "target: must be Linear layers alone or Conv2d alone, with ReLU between them and none at the end"
        )
    return [_affine_layer(module) for module in modules[::2]]


def _check_module(module: nn.Module, position: int) -> None:
    name = type(module).__name__
    if position % 2 and not isinstance(module, nn.ReLU):
        raise UserError(f"target: {name} at {position}, must be ReLU between two layers")
    if position % 2 == 0 and not isinstance(module, nn.Linear | nn.Conv2d):
        raise UserError(f"target: {name} at {position}, must be Linear or Conv2d")
    if isinstance(module, nn.Conv2d) and (
        module.groups != 1 or set(module.dilation) != {1} or module.padding_mode != "zeros"
    ):
        raise UserError(f"target: {module} at {position}, must have groups=1, dilation=1 and padding_mode=zeros")


def _affine_layer(module: nn.Module) -> AffineLayer:
    assert isinstance(module, nn.Linear | nn.Conv2d)
    weight = module.weight.detach()
    bias = torch.zeros(len(weight), dtype=weight.dtype) if module.bias is None else module.bias.detach()
    if isinstance(module, nn.Linear):
        return AffineLayer(weight, bias)
    if isinstance(module.padding, str):
        raise UserError(f"target: padding={module.padding}, must be given in pixels")
    return AffineLayer(weight, bias, (module.stride[0], module.stride[1]), (module.padding[0], module.padding[1]))


def relu_chain(layers: Sequence[nn.Module]) -> nn.Sequential:
    """Return the layers as an nn.Sequential with a ReLU between two layers."""
    return nn.Sequential(*[part for layer in layers for part in (layer, nn.ReLU())][:-1])


def source_network(layers: Sequence[AffineLayer], copies: Sequence[int]) -> nn.Sequential:
    """Return a source network with `copies[l]` neurons or channels for each one of layer l; inputs have one copy."""
    input_copies = [1, *copies[:-1]]
    return relu_chain([layer.source_layer(*sizes) for layer, *sizes in zip(layers, copies, input_copies, strict=True)])


def draw_masks(source: nn.Module, p: Sequence[float], seed: int) -> Masks:
    """Draw the masks of an ER source network: every weight of layer l is kept with probability `p[l]`."""
    layers = prunable_layers(source)
    return {
        layer.name: draw_bernoulli(layer, density, generator(seed, layer.name))
        for layer, density in zip(layers, p, strict=True)
    }


def without_dead_ends(masks: Masks) -> Masks:
    """Return the masks of a chain without the edges into neurons or channels that have no outgoing edge."""
    pruned: Masks = {}
    has_outgoing: Tensor | None = None
    for name in reversed(masks):
        mask = masks[name]
        if has_outgoing is not None:
            mask = mask & has_outgoing.reshape(-1, *[1] * (mask.ndim - 1))
        pruned[name] = mask
        has_outgoing = mask.flatten(2).any(2).any(0) if mask.ndim > 2 else mask.any(0)
    return {name: pruned[name] for name in masks}


def random_target(
    widths: Sequence[int],
    density: float,
    random: np.random.Generator,
    kernels: Sequence[int] = (),
    stride: int = 1,
    padded: bool = False,
) -> nn.Sequential:
    """Draw a float64 target with normal biases and He-scaled normal weights, kept with probability `density`.

    Args:
        widths: neurons or channels by layer, starting with the inputs.
        density: probability in (0, 1] that a weight is not zero.
        random: generator of weights, masks and biases.
        kernels: an odd kernel size for each convolutional layer; empty for linear layers.
        stride: stride of every convolution.
        padded: whether zero padding keeps the image size at stride 1.
    """
    layers: list[nn.Module] = []
    for index, (inputs, outputs) in enumerate(pairwise(widths)):
        layer: nn.Linear | nn.Conv2d = nn.Linear(inputs, outputs, dtype=torch.float64)
        if kernels:
            size = kernels[index]
            layer = nn.Conv2d(inputs, outputs, size, stride, size // 2 if padded else 0, dtype=torch.float64)
        shape, scale = tuple(layer.weight.shape), np.sqrt(2 / (density * layer.weight[0].numel()))
        weight = scale * random.standard_normal(shape) * (random.random(shape) < density)
        layer.weight.data = torch.from_numpy(weight)
        layer.bias = nn.Parameter(torch.from_numpy(0.5 * random.standard_normal(outputs)))
        layers.append(layer)
    return relu_chain(layers)


def nonzero_elements(layers: Sequence[AffineLayer]) -> list[NDArray[np.int64]]:
    """Return, for each layer, the number of nonzero kernel elements by output and input: [outputs, inputs]."""
    return [
        (layer.weight.flatten(2) if layer.weight.ndim > 2 else layer.weight[..., None]).ne(0).sum(2).numpy()
        for layer in layers
    ]


def nonzero_weights(layers: Sequence[AffineLayer]) -> list[int]:
    """Return m_1..m_L, the number of nonzero weights of each layer."""
    return [int(elements.sum()) for elements in nonzero_elements(layers)]


def max_output_difference(first: nn.Module, second: nn.Module, inputs: Tensor) -> float:
    """Return max |first(x) - second(x)| over a batch of inputs."""
    with torch.no_grad():
        return float((first(inputs) - second(inputs)).abs().max())
