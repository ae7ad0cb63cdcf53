"""Reachability in the channel graph: which weights lie on a path from the input to the output.

The channel graph is a list of operations on channels (`ersparse.sparse.channel_graph`), each of which refers to earlier
ones by index. A residual addition takes the union of what its branches reach, a concatenation concatenates them,
pooling and normalisation pass channels on, and flattening repeats each channel once per pixel.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ersparse.sparse.layers import Layer


@dataclass(frozen=True)
class ChannelOp:
    """One operation of the channel graph.

    Attributes:
        kind: "input", "layer", "same" (each channel is passed on to one channel), "add", "cat" or "output".
        inputs: indices of the operations whose channels this one reads; all are smaller than its own.
        layer: name of the layer if `kind` is "layer", otherwise empty.
    """

    kind: str
    inputs: tuple[int, ...]
    layer: str = ""


def on_paths(masks: Mapping[str, Tensor], layers: list[Layer], graph: list[ChannelOp]) -> dict[str, Tensor]:
    """Return the weights of `masks` that lie on some path from an input to an output.

    A kept weight is on a path if its input channel is reachable from the input and the output is reachable from its
    output channel.

    Args:
        masks: masks by layer name, on the CPU.
        layers: the layers that are masked.
        graph: the channel graph.

    Returns:
        A boolean tensor for each layer, in the shape of its mask.
    """
    layer_of = {layer.name: layer for layer in layers}
    edges = {name: _edges(mask, layer_of[name]) for name, mask in masks.items()}
    reached = _forward(graph, edges)
    needed = _backward(graph, edges, reached)
    live = {name: torch.zeros_like(mask) for name, mask in masks.items()}
    for index, op in enumerate(graph):
        if op.kind == "layer":
            layer, mask = layer_of[op.layer], masks[op.layer]
            inputs = _inputs_of_rows(_per_input(reached[op.inputs[0]], layer.n_in), layer)
            kernels = inputs & needed[index][:, None]
            whole = kernels.reshape(*kernels.shape, *[1] * (mask.dim() - 2)).expand(layer.rows_shape)
            live[op.layer] |= mask & layer.from_rows(whole)
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
    return _forward(graph, {layer.name: _edges(masks[layer.name], layer) for layer in layers})[-1]


def cut(masks: Mapping[str, Tensor], layers: list[Layer], graph: list[ChannelOp]) -> list[str]:
    """Return the layers that disconnect the input from the output (layer collapse); empty if an output is reached.

    An empty layer is no cut while a parallel branch, such as a shortcut, bypasses it.

    Args:
        masks: masks by layer name, on the CPU.
        layers: the layers that are masked.
        graph: the channel graph.
    """
    reached = _forward(graph, {layer.name: _edges(masks[layer.name], layer) for layer in layers})
    found: list[str] = []
    unreached = {len(graph) - 1}  # operations to visit, from the output backwards
    for index in reversed(range(len(graph))):
        op = graph[index]
        if index not in unreached or reached[index].any():
            continue
        if op.kind == "layer" and reached[op.inputs[0]].any():
            found.append(op.layer)
        unreached.update(op.inputs)
    return found[::-1]


def _forward(graph: list[ChannelOp], edges: Mapping[str, Tensor]) -> list[Tensor]:
    """Return for each operation which of its output channels are reachable from an input."""
    reached: list[Tensor] = []
    for op in graph:
        before = [reached[i] for i in op.inputs]
        if op.kind == "input":
            reached.append(torch.ones(1, dtype=torch.bool))
        elif op.kind == "layer":
            edge = edges[op.layer]
            reached.append((edge & _per_input(before[0], edge.shape[1])).any(1))
        elif op.kind == "cat":
            reached.append(torch.cat(before))
        else:
            reached.append(before[0] | before[1] if op.kind == "add" else before[0])
    return reached


def _backward(graph: list[ChannelOp], edges: Mapping[str, Tensor], reached: list[Tensor]) -> list[Tensor]:
    """Return for each operation from which of its output channels an output is reachable."""
    needed = [torch.zeros_like(channels) for channels in reached]
    for index in reversed(range(len(graph))):
        op = graph[index]
        if op.kind == "cat":
            parts = torch.split(needed[index], [len(reached[i]) for i in op.inputs])
            for i, part in zip(op.inputs, parts, strict=True):
                needed[i] = needed[i] | part
            continue
        for i in op.inputs:
            if op.kind == "output":
                needed[i] = torch.ones_like(reached[i])
            elif op.kind == "layer":
                below = (edges[op.layer] & needed[index][:, None]).any(0)
                needed[i] = needed[i] | below.reshape(len(reached[i]), -1).any(1)
            else:
                needed[i] = needed[i] | needed[index]
    return needed


def _edges(mask: Tensor, layer: Layer) -> Tensor:
    """Return the bipartite channel graph of a layer, [n_out, n_in]; it is block-diagonal for a grouped layer."""
    mask = layer.to_rows(mask)
    edge = mask.flatten(2).any(2) if mask.dim() > 2 else mask
    if layer.groups == 1:
        return edge
    full = torch.zeros(layer.n_out, layer.n_in, dtype=torch.bool)
    for rows, columns, block in zip(
        torch.arange(layer.n_out).chunk(layer.groups),
        torch.arange(layer.n_in).chunk(layer.groups),
        edge.chunk(layer.groups),
        strict=True,
    ):
        full[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = block
    return full


def _per_input(channels: Tensor, n_in: int) -> Tensor:
    """Expand channels to the `n_in` inputs of a layer: each is repeated once per pixel if they were flattened."""
    assert n_in % len(channels) == 0, f"{len(channels)} channels cannot be {n_in} inputs"
    return channels.repeat_interleave(n_in // len(channels))


def _inputs_of_rows(channels: Tensor, layer: Layer) -> Tensor:
    """Expand input channels [n_in] to the inputs of each output channel, [n_out, n_in / groups]."""
    by_group = channels.reshape(layer.groups, -1)
    return by_group.repeat_interleave(layer.n_out // layer.groups, 0)
