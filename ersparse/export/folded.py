"""Inference form of a trained network: convolutions with batch normalisation folded in, and fused steps around them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from ersparse.kernels.activations import Activation
from ersparse.kernels.fused_graph import FusedGraph
from ersparse.kernels.nodes import Concatenation, Convolution, FusedStep, Input, Node, NotCovered, Product
from ersparse.kernels.pooling import Pool
from ersparse.sparse.layers import prunable_weights
from ersparse.sparse.mask import attach, masks_of


@dataclass(frozen=True)
class FoldedLayer:
    """A convolution with bias, or a linear layer with bias, which has no kernel and reads all of its source.

    Attributes:
        name: parameter name of the weight in the trained network.
        shape: the shape of the weight: output channels, input channels / groups, and the kernel of a convolution.
        padding: zero rows above and zero columns left of the image.
        end_padding: zero rows below and zero columns right of it; None for as many.
    """

    name: str
    shape: Sequence[int]
    stride: Sequence[int] = (1, 1)
    padding: Sequence[int] = (0, 0)
    groups: int = 1
    dilation: Sequence[int] = (1, 1)
    end_padding: Sequence[int] | None = None

    def build(self) -> nn.Module:
        """Return the PyTorch module of this layer, with random weights."""
        n_out, n_in, *kernel = self.shape
        if not kernel:
            return nn.Sequential(nn.Flatten(), nn.Linear(n_in, n_out))
        options: dict[str, Any] = {"dilation": _pair(self.dilation), "groups": self.groups}
        arguments = n_in * self.groups, n_out, _pair(kernel), _pair(self.stride)
        if self.end_padding is None:
            return nn.Conv2d(*arguments, _pair(self.padding), **options)
        (top, left), (bottom, right) = self.padding, self.end_padding
        return nn.Sequential(nn.ZeroPad2d((left, right, top, bottom)), nn.Conv2d(*arguments, **options))


@dataclass(frozen=True)
class FoldedStep:
    """Fused operations pool(activation(layer(source) + residual)), any of which may be absent.

    A product or a concatenation is a step of its own, with nothing but its operands.

    Attributes:
        source, residual: 0 is the image, n the result of the n-th step.
        factor: the number of the result by which `source` is multiplied.
        more: the numbers of the results that follow `source` in a concatenation of channels.
        unflattened: the one of `source` and `factor` that is [B, C], and read as [B, C, 1, 1].
    """

    source: int
    layer: FoldedLayer | None = None
    residual: int | None = None
    activation: Activation | None = None
    pool: Pool | None = None
    factor: int | None = None
    more: Sequence[int] = ()
    unflattened: int | None = None

    @property
    def sources(self) -> list[int]:
        """The numbers of the results whose channels are concatenated, or of the only one."""
        return [self.source, *self.more]

    @property
    def operands(self) -> list[int]:
        """The numbers of all results that the step reads."""
        return [*self.sources, *(n for n in (self.residual, self.factor) if n is not None)]

    def combine(self, y: Tensor, results: Sequence[Tensor] | Mapping[int, Tensor]) -> Tensor:
        """Add, multiply or append the other operands to `y`, the output of the layer."""
        if self.residual is not None:
            return y + results[self.residual]
        if self.factor is not None:
            factors = ((y, self.source), (results[self.factor], self.factor))
            first, second = (torch.unflatten(x, 1, (-1, 1, 1)) if n == self.unflattened else x for x, n in factors)
            return first * second
        return torch.cat([y, *(results[number] for number in self.more)], 1) if self.more else y

    def build_epilogue(self) -> nn.Module:
        """Return the PyTorch module of what follows the sum: activation and pooling."""
        return nn.Sequential(*(part.build() for part in (self.activation, self.pool) if part))


class FoldedNetwork(nn.Module):
    """A network in evaluation mode that computes `steps` by PyTorch's dense layers; the last step is its output."""

    def __init__(self, steps: Sequence[FoldedStep]) -> None:
        super().__init__()
        self.steps = tuple(steps)
        self.layers = nn.ModuleList(step.layer.build() if step.layer else nn.Identity() for step in steps)
        self.epilogues = nn.ModuleList(step.build_epilogue() for step in steps)
        self.eval().requires_grad_(False)

    def borders(self) -> list[tuple[int, int]]:
        """Return the border of the image and of each step's result: the largest padding of the layers that read it."""
        borders = [(0, 0)] * (len(self.steps) + 1)
        for step in self.steps:
            if step.layer:
                paddings = borders[step.source], step.layer.padding, step.layer.end_padding or (0, 0)
                borders[step.source] = (max(p[0] for p in paddings), max(p[1] for p in paddings))
        return borders

    def last_readers(self) -> dict[int, int]:
        """Return for each result that is read the number of the last step that reads it."""
        return {result: number for number, step in enumerate(self.steps, 1) for result in step.operands}

    def forward(self, x: Tensor) -> Tensor:
        """Compute the output [B, ...] of normalised images [B, C, H, W]."""
        results = [x]
        for step, layer, epilogue in zip(self.steps, self.layers, self.epilogues, strict=True):
            y = layer(results[step.source])
            results.append(epilogue(step.combine(y, results)))
        return results[-1]


@torch.no_grad()
def fold(network: nn.Module) -> FoldedNetwork:
    """Return a network that computes what `network` computes in evaluation mode, with its masks attached.

    Raises:
        NotCovered: names the first operation that cannot be folded, such as a normalisation that follows no
            convolution.
    """
    graph, masks = FusedGraph(network, evaluation=True), masks_of(network)
    if any(isinstance(node, Convolution) and isinstance(node.module, nn.Conv1d) for node in graph.nodes):
        raise NotCovered("Conv1d in prediction, which is of images")
    steps = [node for node in graph.nodes if not isinstance(node, Convolution | Input)]
    if isinstance(graph.output, Convolution):
        steps.append(FusedStep(graph.output.position, graph.output))
    numbers: dict[Node, int] = {graph.nodes[0]: 0} | {step: number for number, step in enumerate(steps, 1)}
    folded = FoldedNetwork([_fold_step(step, numbers) for step in steps])
    weighted = [step for step in steps if isinstance(step, FusedStep) and isinstance(step.source, Convolution)]
    folded_masks = {}
    for step, (name, held) in zip(weighted, prunable_weights(folded).items(), strict=True):
        assert isinstance(step.source, Convolution)
        weight, bias = _fold_norm(step.source.module, step.norm)
        assert isinstance(held.module.bias, Tensor)
        held.weight.copy_(weight), held.module.bias.copy_(bias)
        folded_masks[name] = masks.get(step.source.name, torch.ones_like(weight, dtype=torch.bool))
    attach(folded, folded_masks)
    return folded


def _fold_step(step: Node, numbers: dict[Node, int]) -> FoldedStep:
    if isinstance(step, Product):
        flat = [operand for operand in (step.source, step.factor) if _is_flat(operand)]
        unflattened = numbers[flat[0]] if len(flat) == 1 else None
        return FoldedStep(numbers[step.source], factor=numbers[step.factor], unflattened=unflattened)
    if isinstance(step, Concatenation):
        first, *more = (numbers[source] for source in step.sources)
        return FoldedStep(first, more=more)
    assert isinstance(step, FusedStep)
    residual = numbers[step.residual] if step.residual else None
    if not isinstance(step.source, Convolution):
        if step.norm:
            raise NotCovered("a BatchNorm2d that follows no convolution")
        return FoldedStep(numbers[step.source], None, residual, step.activation, step.pool)
    node = step.source
    shape, stride, padding = (list(v) for v in (node.module.weight.shape, node.stride, node.padding))
    end_padding = None if node.end_padding == node.padding else list(node.end_padding)
    layer = FoldedLayer(node.name, shape, stride, padding, node.groups, list(node.dilation), end_padding)
    return FoldedStep(numbers[node.source], layer, residual, step.activation, step.pool)


def _is_flat(node: Node) -> bool:
    """Return whether the folded network computes a node as [B, features]."""
    if isinstance(node, Convolution):
        return node.kernel is None
    return bool(node.operands) and all(_is_flat(operand) for operand in node.operands)


def _fold_norm(
    layer: nn.Conv1d | nn.Conv2d | nn.Linear, norm: nn.BatchNorm1d | nn.BatchNorm2d | None
) -> tuple[Tensor, Tensor]:
    """Return weight and bias of the layer followed by the normalisation with its running statistics."""
    bias = layer.weight.new_zeros(len(layer.weight)) if layer.bias is None else layer.bias
    if norm is None:
        return layer.weight, bias
    mean, variance = norm.running_mean, norm.running_var
    assert mean is not None and variance is not None
    return fuse_conv_bn_weights(layer.weight, bias, mean, variance, norm.eps, norm.weight, norm.bias)


def _pair(numbers: Sequence[int]) -> tuple[int, int]:
    height, width = numbers
    return height, width
