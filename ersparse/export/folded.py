"""A trained network as it predicts: convolutions with their normalisations folded in, and what lies between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from ersparse.kernels.fused_graph import Convolution, FusedGraph, FusedStep, Node, NotCovered
from ersparse.sparse.layers import prunable_modules
from ersparse.sparse.mask import attach, masks_of


@dataclass(frozen=True)
class Layer:
    """A convolution, or a linear layer over all that it reads, which has no kernel; both have a bias.

    Attributes:
        name: of its weight in the network that was trained.
        shape: of its weight.
    """

    name: str
    shape: Sequence[int]
    stride: int = 1
    padding: Sequence[int] = (0, 0)
    groups: int = 1

    def build(self) -> nn.Module:
        n_out, n_in, *kernel = self.shape
        if not kernel:
            return nn.Sequential(nn.Flatten(), nn.Linear(n_in, n_out))
        return nn.Conv2d(n_in * self.groups, n_out, _pair(kernel), self.stride, _pair(self.padding), groups=self.groups)


@dataclass(frozen=True)
class Part:
    """pool(relu(layer(source) + residual)), any of them left out.

    Attributes:
        source, residual: 0 is the image, n the result of the n-th part.
        pool: "max" or "average" over windows that do not overlap; `window` None is the whole image.
    """

    source: int
    layer: Layer | None = None
    residual: int | None = None
    relu: bool = False
    pool: str = ""
    window: Sequence[int] | None = (1, 1)

    def after(self) -> nn.Module:
        """What follows the sum."""
        modules: list[nn.Module] = [nn.ReLU()] if self.relu else []
        if self.pool and self.window is None:
            modules.append(nn.AdaptiveAvgPool2d(1))
        elif self.pool and self.window is not None:
            modules.append((nn.MaxPool2d if self.pool == "max" else nn.AvgPool2d)(_pair(self.window)))
        return nn.Sequential(*modules)


class Folded(nn.Module):
    """The network that `parts` describe, in eval mode; the last of them is its output."""

    def __init__(self, parts: Sequence[Part]) -> None:
        super().__init__()
        self.parts = tuple(parts)
        self.layers = nn.ModuleList(part.layer.build() if part.layer else nn.Identity() for part in parts)
        self.afters = nn.ModuleList(part.after() for part in parts)
        self.eval().requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> the output, [B, ...]."""
        results = [x]
        for part, layer, after in zip(self.parts, self.layers, self.afters, strict=True):
            y = layer(results[part.source])
            results.append(after(y if part.residual is None else y + results[part.residual]))
        return results[-1]


@torch.no_grad()
def fold(network: nn.Module) -> Folded:
    """What `network` computes in eval mode, its masks attached.

    Raises:
        NotCovered: names what is not, such as a normalisation that follows no convolution.
    """
    graph, masks = FusedGraph(network), masks_of(network)
    steps = [node for node in graph.nodes if isinstance(node, FusedStep)]
    if isinstance(graph.output, Convolution):
        steps.append(FusedStep(graph.output.position, graph.output))
    numbers: dict[Node, int] = {graph.nodes[0]: 0} | {step: number for number, step in enumerate(steps, 1)}
    folded = Folded([_part(step, numbers) for step in steps])
    weighted = [step for step in steps if isinstance(step.source, Convolution)]
    kept = {}
    for step, (name, module) in zip(weighted, prunable_modules(folded).items(), strict=True):
        assert isinstance(step.source, Convolution)
        weight, bias = _weight_and_bias(step.source.module, step.norm)
        assert module.bias is not None
        module.weight.copy_(weight), module.bias.copy_(bias)
        kept[name] = masks.get(step.source.name, torch.ones_like(weight, dtype=torch.bool))
    attach(folded, kept)
    return folded


def _part(step: FusedStep, numbers: dict[Node, int]) -> Part:
    residual = numbers[step.residual] if step.residual else None
    window = step.window and list(step.window)
    if not isinstance(step.source, Convolution):
        if step.norm:
            raise NotCovered("a BatchNorm2d that follows no convolution")
        return Part(numbers[step.source], None, residual, step.relu, step.pool, window)
    node = step.source
    layer = Layer(node.name, list(node.module.weight.shape), node.stride, list(node.padding), node.groups)
    return Part(numbers[node.source], layer, residual, step.relu, step.pool, window)


def _weight_and_bias(layer: nn.Conv2d | nn.Linear, norm: nn.BatchNorm2d | None) -> tuple[Tensor, Tensor]:
    bias = layer.weight.new_zeros(len(layer.weight)) if layer.bias is None else layer.bias
    if norm is None:
        return layer.weight, bias
    mean, variance = norm.running_mean, norm.running_var
    assert mean is not None and variance is not None
    return fuse_conv_bn_weights(layer.weight, bias, mean, variance, norm.eps, norm.weight, norm.bias)


def _pair(numbers: Sequence[int]) -> tuple[int, int]:
    height, width = numbers
    return height, width
