"""Reachability in the channel graph: which weights lie on a path from the input to the output.

The channel graph is a list of operations (`ersparse.sparse.channel_graph`). Each operation makes channels, which are
numbered over the whole graph, from channels of earlier operations. A sum or a concatenation of operations reaches what
any of its terms reaches. A product passes a factor on where the other factor is not zero: a factor is zero if no path
leads to it from the input and no bias, normalisation or other constant is added to it on the way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ersparse.sparse.layers import Layer


class Kernels(NamedTuple):
    """Where the kernels of a layer lie in its weight, as the arguments of `as_strided`.

    Attributes:
        size: (groups, output channels of a group, input channels of a group, *kernel).
        stride: the strides in a contiguous weight.
        offset: the position of the first element.
    """

    size: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int

    def of(self, weight: Tensor) -> Tensor:
        """Return the kernels of a contiguous `weight`, or of its mask, as a view."""
        return weight.as_strided(self.size, self.stride, int(weight.storage_offset()) + self.offset)


@dataclass(frozen=True, eq=False)
class ChannelOp:
    """One operation of the channel graph.

    A label is twice the number of a channel, plus one if a constant other than zero is added to it. Channel 0 belongs
    to no operation and is always zero, so label 0 is zero and label 1 is a constant.

    Attributes:
        kind: "input"; "layer"; "any" (each channel is a sum of channels); "products" (each channel is a sum of products
            of two channels); or "output".
        start: number of the first channel that this operation makes.
        count: how many channels it makes.
        reads: labels of what it reads. Of a layer [copies, input channels], where each copy makes as many channels as
            the layer has outputs; of sums [channels, terms]; of products both factors, each [channels, terms]; of the
            output a vector.
        layer: name of the layer if `kind` is "layer", otherwise empty.
        kernels: kernels of the layer.
    """

    kind: str
    start: int
    count: int
    reads: tuple[Tensor, ...] = ()
    layer: str = ""
    kernels: Kernels | None = None


class _State(NamedTuple):
    """The channels of a graph for given masks, [channels] each.

    Attributes:
        reached: whether a path leads to the channel from an input.
        nonzero: whether the channel is not zero, because it is reached or because constants were added on the way. It
            equals `reached` in a graph without products, which alone depend on it.
        edges: for each layer operation, the pairs of channels with a kept weight, [groups, outputs, inputs].
    """

    reached: Tensor
    nonzero: Tensor
    edges: dict[int, Tensor]


def on_paths(masks: Mapping[str, Tensor], layers: list[Layer], graph: list[ChannelOp]) -> dict[str, Tensor]:
    """Return the weights of `masks` that lie on some path from an input to an output.

    A kept weight is on a path if its input channel is reachable from the input and the output is reachable from its
    output channel.

    Args:
        masks: masks by layer name, on the CPU; a layer without a mask is dense.
        layers: the layers that are masked.
        graph: the channel graph.

    Returns:
        A boolean tensor for each layer, in the shape of its mask.
    """
    state = _forward(graph, masks)
    needed = _backward(graph, state)
    live = {name: torch.zeros_like(mask, memory_format=torch.contiguous_format) for name, mask in masks.items()}
    for op in graph:
        if op.kind == "layer" and op.layer in masks:
            assert op.kernels is not None
            kept, found = op.kernels.of(masks[op.layer].contiguous()), op.kernels.of(live[op.layer])
            pairs = _meet(_outputs(needed, op).mT, _inputs(state.reached, op))
            found |= kept & pairs.reshape(*pairs.shape, *[1] * (kept.dim() - 3))
    return live


def effective_density(masks: Mapping[str, Tensor], layers: list[Layer], graph: list[ChannelOp]) -> float:
    """Return the effective density: weights on a path from input to output, divided by all weights.

    Args:
        masks: masks by layer name, on the CPU.
        layers: the layers that are masked.
        graph: the channel graph.
    """
    live = on_paths(masks, layers, graph)
    return sum(int(mask.sum()) for mask in live.values()) / sum(layer.size for layer in layers)


def outputs_reached(masks: Mapping[str, Tensor], layers: list[Layer], graph: list[ChannelOp]) -> Tensor:
    """Return for each output whether it is reachable from an input."""
    return _forward(graph, masks).reached[graph[-1].reads[0] >> 1]


def cut(masks: Mapping[str, Tensor], layers: list[Layer], graph: list[ChannelOp]) -> list[str]:
    """Return the layers that disconnect the input from the output (layer collapse); empty if an output is reached.

    An empty layer is no cut while a parallel branch, such as a shortcut, bypasses it.

    Args:
        masks: masks by layer name, on the CPU.
        layers: the layers that are masked.
        graph: the channel graph.
    """
    reached = _forward(graph, masks).reached
    if reached[graph[-1].reads[0] >> 1].any():
        return []
    found: list[str] = []
    visited = torch.zeros_like(reached)  # channels that the output would be reached through
    visited[graph[-1].reads[0] >> 1] = True
    for op in reversed(graph[:-1]):
        made = slice(op.start, op.start + op.count)
        if not visited[made].any() or reached[made].any():
            continue
        read = torch.cat([labels.reshape(-1) >> 1 for labels in op.reads])
        if op.kind == "layer" and reached[read].any():
            found.append(op.layer)
        visited[read] = True
    return found[::-1]


def _forward(graph: list[ChannelOp], masks: Mapping[str, Tensor]) -> _State:
    """Return which channels are reachable from an input, and which are not zero."""
    reached = torch.zeros(graph[-1].start, dtype=torch.bool)
    has_products = any(op.kind == "products" for op in graph)
    nonzero = torch.zeros_like(reached) if has_products else reached
    edges: dict[int, Tensor] = {}
    for index, op in enumerate(graph[:-1]):
        made = slice(op.start, op.start + op.count)
        if op.kind == "input":
            reached[made] = nonzero[made] = True
        elif op.kind == "layer":
            edges[index] = _edges(op, masks)
            into = _meet(_inputs(reached, op), edges[index].mT)
            reached[made] = into.transpose(0, 1).reshape(-1)
            if has_products:
                into = _meet(_inputs(nonzero, op, constants=True), edges[index].mT)
                nonzero[made] = into.transpose(0, 1).reshape(-1)
        elif op.kind == "any":
            reached[made] = reached[op.reads[0] >> 1].any(1)
            if has_products:
                nonzero[made] = _is_nonzero(nonzero, op.reads[0]).any(1)
        else:
            first, second = op.reads
            both = _is_nonzero(nonzero, first) & _is_nonzero(nonzero, second)
            nonzero[made] = both.any(1)
            reached[made] = (both & (reached[first >> 1] | reached[second >> 1])).any(1)
    return _State(reached, nonzero, edges)


def _backward(graph: list[ChannelOp], state: _State) -> Tensor:
    """Return the channels from which an output is reachable."""
    needed = torch.zeros_like(state.reached)
    needed[graph[-1].reads[0] >> 1] = True
    for index in reversed(range(len(graph) - 1)):
        op = graph[index]
        after = needed[op.start : op.start + op.count]
        if op.kind == "layer":
            below = _meet(_outputs(needed, op), state.edges[index]).transpose(0, 1).reshape(op.reads[0].shape)
            needed[op.reads[0][below] >> 1] = True
        elif op.kind == "any":
            needed[op.reads[0][after] >> 1] = True
        elif op.kind == "products":
            for factor, other in (op.reads, op.reads[::-1]):
                needed[factor[after[:, None] & _is_nonzero(state.nonzero, other)] >> 1] = True
    return needed


def _edges(op: ChannelOp, masks: Mapping[str, Tensor]) -> Tensor:
    """Return the pairs of channels of a layer with at least one kept weight, [groups, outputs, inputs]."""
    assert op.kernels is not None
    if op.layer not in masks:
        return torch.ones(op.kernels.size[:3], dtype=torch.bool)
    kept = op.kernels.of(masks[op.layer].contiguous())
    return kept.flatten(3).any(3) if kept.dim() > 3 else kept


def _inputs(channels: Tensor, op: ChannelOp, constants: bool = False) -> Tensor:
    """Return `channels`, or its labels with their constants, for the inputs of a layer, [groups, copies, inputs]."""
    assert op.kernels is not None
    groups, _, n_in = op.kernels.size[:3]
    read = _is_nonzero(channels, op.reads[0]) if constants else channels[op.reads[0] >> 1]
    return read.reshape(-1, groups, n_in).transpose(0, 1)


def _outputs(channels: Tensor, op: ChannelOp) -> Tensor:
    """Return `channels` for the outputs of a layer, [groups, copies, outputs]."""
    assert op.kernels is not None
    groups, n_out = op.kernels.size[:2]
    return channels[op.start : op.start + op.count].reshape(-1, groups, n_out).transpose(0, 1)


def _meet(first: Tensor, second: Tensor) -> Tensor:
    """Return the product of boolean matrices, [groups, n, k] and [groups, k, m]; the counts are exact below 2^24."""
    return torch.bmm(first.float(), second.float()) > 0


def _is_nonzero(nonzero: Tensor, labels: Tensor) -> Tensor:
    return nonzero[labels >> 1] | (labels & 1).bool()
