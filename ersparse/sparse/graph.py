"""Which weights lie on a path from input to output: reachability through the network as it computes.

The network is traced once (torch.fx) into a short list of steps on channels. A residual add joins what its branches
reach, a concatenation lays them side by side, pooling and normalisation pass channels on, flattening repeats each
channel once per pixel.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from ersparse.sparse.layers import Layer, Prunable, prunable_modules

SAME_MODULES = (
    nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.modules.dropout._DropoutNd, nn.Identity, nn.Flatten,
    nn.modules.pooling._MaxPoolNd, nn.modules.pooling._AvgPoolNd, nn.modules.pooling._AdaptiveAvgPoolNd,
    nn.modules.pooling._AdaptiveMaxPoolNd, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Mish,
    nn.Hardswish, nn.Hardtanh, nn.Tanh, nn.Sigmoid, nn.Softplus, nn.Upsample,
)  # fmt: skip
SAME_FUNCTIONS = (
    F.relu, F.relu6, F.leaky_relu, F.elu, F.gelu, F.silu, F.mish, F.hardswish, F.hardtanh, F.softplus, torch.relu,
    torch.tanh, torch.sigmoid, F.max_pool2d, F.avg_pool2d, F.adaptive_avg_pool2d, F.adaptive_max_pool2d, F.dropout,
    F.interpolate, torch.flatten,
)  # fmt: skip
SAME_METHODS = ("flatten", "relu", "contiguous", "mean", "tanh", "sigmoid")
RESHAPES = ("view", "reshape")
ADD_FUNCTIONS = (operator.add, operator.iadd, torch.add)
CAT_FUNCTIONS = (torch.cat, torch.concat)
SIZE_METHODS = ("size", "dim")


class GraphError(ValueError):
    """The network does something whose flow cannot be followed."""


@dataclass(frozen=True)
class Step:
    """One step: `kind` is input, layer, same, add, cat or output; `inputs` number earlier steps."""

    kind: str
    inputs: tuple[int, ...]
    layer: str = ""


def trace(network: nn.Module) -> list[Step]:
    """The steps of `network`, in the order in which it computes them.

    Raises:
        GraphError: names the operation that cannot be followed.
    """
    if isinstance(network, Prunable):  # which torch.fx would look into
        return [Step("input", ()), Step("layer", (0,), "weight"), Step("output", (1,))]
    try:
        graph = fx.symbolic_trace(network).graph
    except Exception as error:  # whatever the module's own code raises when it is run on proxies
        raise GraphError(f"the network cannot be traced ({error}); flow=none does without") from None
    names = {id(module.weight): name for name, module in prunable_modules(network).items()}
    modules = dict(network.named_modules())
    number: dict[fx.Node, int] = {}
    steps: list[Step] = []
    for node in graph.nodes:
        if not _is_size(node, number):
            inputs = tuple(number[argument] for argument in node.all_input_nodes if argument in number)
            steps.append(_step(node, inputs, modules, names))
            number[node] = len(steps) - 1
    return steps


def _is_size(node: fx.Node, carriers: Mapping[fx.Node, int]) -> bool:
    """Whether a node computes with sizes, not with channels (`carriers` are the nodes before it that carry those)."""
    if node.op in ("placeholder", "output", "call_module", "get_attr"):
        return False
    if (node.op == "call_method" and node.target in SIZE_METHODS) or node.target is getattr:
        return True
    return not any(argument in carriers for argument in node.all_input_nodes)


def _step(node: fx.Node, inputs: tuple[int, ...], modules: Mapping[str, nn.Module], names: Mapping[int, str]) -> Step:
    if node.op == "placeholder":
        return Step("input", ())
    if node.op == "output":
        return Step("output", inputs)
    module = modules.get(str(node.target)) if node.op == "call_module" else None
    if isinstance(module, Prunable):
        return Step("layer", inputs, names[id(module.weight)])
    if len(inputs) == 1 and (
        isinstance(module, SAME_MODULES)
        or (node.op == "call_function" and node.target in SAME_FUNCTIONS)
        or (node.op == "call_method" and (node.target in SAME_METHODS or (node.target in RESHAPES and _flattens(node))))
    ):
        return Step("same", inputs)
    if node.op == "call_function" and node.target in ADD_FUNCTIONS and len(inputs) == 2:
        return Step("add", inputs)
    if node.op == "call_function" and node.target in CAT_FUNCTIONS and _dim(node) == 1:
        return Step("cat", inputs)
    raise GraphError(f"the flow through {_named(node)} cannot be followed; flow=none does without")


def _named(node: fx.Node) -> str:
    return str(getattr(node.target, "__name__", node.target))


def _flattens(node: fx.Node) -> bool:
    """`x.view(len(x), -1)` or `x.view(-1, 400)`: to two dimensions, of which the first is the batch."""
    sizes = node.args[1] if isinstance(node.args[1], (tuple, list)) else node.args[1:]
    return len(sizes) == 2


def _dim(node: fx.Node) -> object:
    return node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)


def on_paths(masks: Mapping[str, Tensor], layers: list[Layer], steps: list[Step]) -> dict[str, Tensor]:
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


def effective_density(masks: Mapping[str, Tensor], layers: list[Layer], steps: list[Step]) -> float:
    """Weights on a path from input to output, over all weights."""
    live = on_paths(masks, layers, steps)
    return sum(int(mask.sum()) for mask in live.values()) / sum(layer.size for layer in layers)


def _forward(steps: list[Step], edges: Mapping[str, Tensor]) -> list[Tensor]:
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


def _backward(steps: list[Step], edges: Mapping[str, Tensor], reached: list[Tensor]) -> list[Tensor]:
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
    return channels.repeat_interleave(n_in // len(channels))


def _per_group(channels: Tensor, layer: Layer) -> Tensor:
    """[n_in] as [n_out, n_in / groups]: what each output channel sees."""
    by_group = channels.reshape(layer.groups, -1)
    return by_group.repeat_interleave(layer.n_out // layer.groups, 0)
