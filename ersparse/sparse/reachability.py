"""Which weights lie on a path from input to output: reachability through the network as it computes.

The network is given as a short list of operations on channels (`ersparse.sparse.channel_graph`). A residual addition
takes the union of what its branches reach, a concatenation concatenates them, pooling and normalisation pass channels
on, and flattening repeats each channel once per pixel.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ersparse.sparse.layers import Layer


@dataclass(frozen=True)
class ChannelOp:
    """One step: `kind` is input, layer, same, add, cat or output; `inputs` number earlier steps."""

    kind: str
    inputs: tuple[int, ...]
    layer: str = ""


def on_paths(masks: Mapping[str, Tensor], layers: list[Layer], steps: list[ChannelOp]) -> dict[str, Tensor]:
    """The weights of `masks` that lie on some path from an input to an output.

    A kept weight counts if input reaches its input channel and its output channel reaches the output.

    Returns:
        A boolean tensor for each layer, in the shape of its mask.
    """
    layer_of = {layer.name: layer for layer in layers}
    edges = {name: _edges(mask, layer_of[name]) for name, mask in masks.items()}
    reached = _forward(steps, edges)
    needed = _backward(steps, edges, reached)
    live = {name: torch.zeros_like(mask) for name, mask in masks.items()}
    for number, step in enumerate(steps):
        if step.kind == "layer":
            layer, mask = layer_of[step.layer], masks[step.layer]
            inputs = _per_group(_widened(reached[step.inputs[0]], layer.n_in), layer)
            kernels = inputs & needed[number][:, None]
            live[step.layer] |= mask & kernels.reshape(*kernels.shape, *[1] * (mask.dim() - 2))
    return live


def effective_density(masks: Mapping[str, Tensor], layers: list[Layer], steps: list[ChannelOp]) -> float:
    """Weights on a path from input to output, over all weights."""
    live = on_paths(masks, layers, steps)
    return sum(int(mask.sum()) for mask in live.values()) / sum(layer.size for layer in layers)


def outputs_reached(masks: Mapping[str, Tensor], layers: list[Layer], steps: list[ChannelOp]) -> Tensor:
    """For each output, whether an input reaches it."""
    return _forward(steps, {layer.name: _edges(masks[layer.name], layer) for layer in layers})[-1]


def cut(masks: Mapping[str, Tensor], layers: list[Layer], steps: list[ChannelOp]) -> list[str]:
    """The layers at which the flow from the input ends, where no output is reached (layer collapse); else none.

    A single empty layer is no cut while others, such as a shortcut's, carry the flow past it.
    """
    reached = _forward(steps, {layer.name: _edges(masks[layer.name], layer) for layer in layers})
    found: list[str] = []
    behind = {len(steps) - 1}
    for number in reversed(range(len(steps))):
        step = steps[number]
        if number not in behind or reached[number].any():
            continue
        if step.kind == "layer" and reached[step.inputs[0]].any():
            found.append(step.layer)
        behind.update(step.inputs)
    return found[::-1]


def _forward(steps: list[ChannelOp], edges: Mapping[str, Tensor]) -> list[Tensor]:
    """For each step, which of its output channels an input reaches."""
    reached: list[Tensor] = []
    for step in steps:
        before = [reached[i] for i in step.inputs]
        if step.kind == "input":
            reached.append(torch.ones(1, dtype=torch.bool))
        elif step.kind == "layer":
            edge = edges[step.layer]
            reached.append((edge & _widened(before[0], edge.shape[1])).any(1))
        elif step.kind == "cat":
            reached.append(torch.cat(before))
        else:
            reached.append(before[0] | before[1] if step.kind == "add" else before[0])
    return reached


def _backward(steps: list[ChannelOp], edges: Mapping[str, Tensor], reached: list[Tensor]) -> list[Tensor]:
    """For each step, which of its output channels reach an output."""
    needed = [torch.zeros_like(channels) for channels in reached]
    for number in reversed(range(len(steps))):
        step = steps[number]
        if step.kind == "cat":
            parts = torch.split(needed[number], [len(reached[i]) for i in step.inputs])
            for i, part in zip(step.inputs, parts, strict=True):
                needed[i] = needed[i] | part
            continue
        for i in step.inputs:
            if step.kind == "output":
                needed[i] = torch.ones_like(reached[i])
            elif step.kind == "layer":
                below = (edges[step.layer] & needed[number][:, None]).any(0)
                needed[i] = needed[i] | below.reshape(len(reached[i]), -1).any(1)
            else:
                needed[i] = needed[i] | needed[number]
    return needed


def _edges(mask: Tensor, layer: Layer) -> Tensor:
    """The channel graph [n_out, n_in], block-diagonal where the layer has groups."""
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


def _widened(channels: Tensor, n_in: int) -> Tensor:
    """Channels as a layer of `n_in` inputs sees them: each repeated once per pixel where they were flattened."""
    assert n_in % len(channels) == 0, f"{len(channels)} channels cannot be {n_in} inputs"
    return channels.repeat_interleave(n_in // len(channels))


def _per_group(channels: Tensor, layer: Layer) -> Tensor:
    """[n_in] as [n_out, n_in / groups]: what each output channel sees."""
    by_group = channels.reshape(layer.groups, -1)
    return by_group.repeat_interleave(layer.n_out // layer.groups, 0)
