"""Tracing the channel graph of a module with torch.fx.

The tracer follows how each tensor's channels arise from those of earlier tensors. It accepts only operations that are
known to keep channels apart, and raises on all others, because a wrong effective density would go unnoticed.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F

from ersparse.sparse.layers import Prunable, prunable_modules
from ersparse.sparse.reachability import ChannelOp

ELEMENTWISE = (
    nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.modules.dropout._DropoutNd, nn.Identity, nn.ReLU, nn.ReLU6,
    nn.LeakyReLU, nn.PReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Mish, nn.Hardswish, nn.Hardtanh, nn.Tanh, nn.Sigmoid,
    nn.Softplus, nn.Softmax, nn.LogSoftmax,
    F.relu, F.relu6, F.leaky_relu, F.elu, F.gelu, F.silu, F.mish, F.hardswish, F.hardtanh, F.softplus, F.softmax,
    F.log_softmax, F.dropout, F.dropout2d, torch.relu, torch.tanh, torch.sigmoid, torch.log_softmax, torch.softmax,
    "relu", "tanh", "sigmoid", "contiguous", "log_softmax", "softmax",
)  # fmt: skip
POOLS = (
    nn.modules.pooling._MaxPoolNd, nn.modules.pooling._AvgPoolNd, nn.modules.pooling._AdaptiveAvgPoolNd,
    nn.modules.pooling._AdaptiveMaxPoolNd, nn.Upsample,
    F.max_pool1d, F.max_pool2d, F.max_pool3d, F.avg_pool1d, F.avg_pool2d, F.avg_pool3d, F.adaptive_avg_pool1d,
    F.adaptive_avg_pool2d, F.adaptive_avg_pool3d, F.adaptive_max_pool2d, F.interpolate,
)  # fmt: skip
FLATTENS = (nn.Flatten, torch.flatten, "flatten")
RESHAPES = ("view", "reshape", torch.reshape)
MEANS = (torch.mean, "mean")
ADDS = (operator.add, operator.iadd, torch.add)
SCALES = (operator.mul, operator.truediv, *ADDS)
CATS = (torch.cat, torch.concat, torch.concatenate)


class GraphError(ValueError):
    """A network whose channel graph cannot be traced; the message names the operation."""


@dataclass(frozen=True)
class Channels:
    """How a tensor is made up of channels.

    Attributes:
        kind: "input" has an unknown shape; "image" is [B, channels, *spatial]; "flat" is [B, channels * pixels];
            "features" is [B, channels]; "output".
        count: number of channels; 0 if unknown.
        spatial: number of spatial dimensions of an image.
    """

    kind: str
    count: int = 0
    spatial: int = 0

    def __str__(self) -> str:
        """Return a description for error messages."""
        kinds = {"input": "the input", "image": "an image", "flat": "a flattened image", "features": "features"}
        return kinds[self.kind] + (f" of {self.count} channels" if self.count else "")


def trace(network: nn.Module) -> list[ChannelOp]:
    """Return the channel graph of `network`, in the order of computation.

    Arguments of `forward` that have a default keep it.

    Raises:
        GraphError: an operation is not supported; the message names it.
    """
    if isinstance(network, Prunable):  # torch.fx would trace the operations inside it
        return [ChannelOp("input", ()), ChannelOp("layer", (0,), "weight"), ChannelOp("output", (1,))]
    parameters = inspect.signature(network.forward).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
    try:
        graph = fx.symbolic_trace(network, concrete_args=defaults or None).graph
    except Exception as error:  # the module's own code runs on proxies, and may raise anything
        raise GraphError(f"the network cannot be traced ({error}); flow=none needs no channel graph") from None
    tracer = ChannelTracer(network)
    for node in graph.nodes:
        tracer.visit(node)
    return tracer.ops


class ChannelTracer:
    """Translates the nodes of an fx graph, one by one, into operations on channels.

    Attributes:
        ops: the channel graph so far.
        channels: the channels of each node whose result is a tensor with channels.
        index: the index in `ops` of each of these nodes.
    """

    def __init__(self, network: nn.Module) -> None:
        self.ops: list[ChannelOp] = []
        self.channels: dict[fx.Node, Channels] = {}
        self.index: dict[fx.Node, int] = {}
        self.modules = dict(network.named_modules())
        self.layer_names = {id(module.weight): name for name, module in prunable_modules(network).items()}

    def visit(self, node: fx.Node) -> None:
        """Add the operation of `node` to the graph.

        Raises:
            GraphError: the operation is not supported.
        """
        if self._is_size(node):
            return
        if node.op == "output":
            self._append(node, "output", node.all_input_nodes, Channels("output"))
            return
        if node.op == "placeholder":
            self._append(node, "input", [], Channels("input"))
            return
        operation = self.modules[str(node.target)] if node.op == "call_module" else node.target
        if isinstance(operation, Prunable):
            self._visit_layer(node, operation)
        elif _matches(operation, CATS):
            self._visit_cat(node)
        elif _matches(operation, ADDS) and len(self._channel_inputs(node)) == 2 and len(_args(node)) == 2:
            self._visit_add(node)
        else:
            self._visit_channelwise(node, operation)

    def _is_size(self, node: fx.Node) -> bool:
        """Return whether a node computes with sizes and constants rather than with channels."""
        if node.op == "placeholder":
            return bool(_args(node))  # an argument with a default
        if node.op in ("output", "call_module", "get_attr"):
            return False
        return node.target in ("size", "dim", getattr) or not self._channel_inputs(node)

    def _channel_inputs(self, node: fx.Node) -> list[fx.Node]:
        return [argument for argument in node.all_input_nodes if argument in self.channels]

    def _append(self, node: fx.Node, kind: str, inputs: list[fx.Node], channels: Channels, layer: str = "") -> None:
        if any(argument not in self.channels for argument in inputs):
            raise self._unsupported(node)
        self.index[node] = len(self.ops)
        self.ops.append(ChannelOp(kind, tuple(self.index[argument] for argument in inputs), layer))
        self.channels[node] = channels

    def _unsupported(self, node: fx.Node, detail: str = "") -> GraphError:
        name = getattr(node.target, "__name__", node.target)
        return GraphError(f"channels cannot be followed through {name}{detail}; flow=none needs no channel graph")

    def _visit_layer(self, node: fx.Node, module: Prunable) -> None:
        if len(_args(node)) != 1 or _args(node)[0] not in self.channels:
            raise self._unsupported(node)
        before = self.channels[_args(node)[0]]
        if isinstance(module, nn.Linear):
            fits = before.kind == "features" and before.count == module.in_features
            fits = fits or (before.kind == "flat" and module.in_features % before.count == 0)
            after = Channels("features", module.out_features)
        else:
            spatial = module.weight.dim() - 2
            fits = before == Channels("image", module.in_channels, spatial)
            after = Channels("image", module.out_channels, spatial)
        if not (fits or before.kind == "input"):
            raise self._unsupported(node, f" ({type(module).__name__} on {before})")
        self._append(node, "layer", [_args(node)[0]], after, self.layer_names[id(module.weight)])

    def _visit_cat(self, node: fx.Node) -> None:
        """Concatenate images with images, or features with features, along the channels."""
        parts = _args(node)[0] if _args(node) else node.kwargs.get("tensors")
        dim = _args(node)[1] if len(_args(node)) > 1 else node.kwargs.get("dim", 0)
        if not isinstance(parts, (list, tuple)) or any(part not in self.channels for part in parts) or dim != 1:
            raise self._unsupported(node)
        found = [self.channels[part] for part in parts]
        kinds = {(channels.kind, channels.spatial) for channels in found}
        if len(kinds) != 1 or found[0].kind not in ("image", "features"):
            raise self._unsupported(node, f" of {', '.join(map(str, found))}")
        whole = Channels(found[0].kind, sum(channels.count for channels in found), found[0].spatial)
        self._append(node, "cat", list(parts), whole)

    def _visit_add(self, node: fx.Node) -> None:
        first, second = (self.channels[argument] for argument in _args(node))
        if first != second or first.kind == "input":
            raise self._unsupported(node, f" of {first} and {second}")
        self._append(node, "add", list(_args(node)), first)

    def _visit_channelwise(self, node: fx.Node, operation: Any) -> None:
        """Add an operation that passes each channel on to one channel."""
        inputs = self._channel_inputs(node)
        rules: list[tuple[tuple[Any, ...], Callable[[fx.Node, Any, Channels], Channels | None]]] = [
            (ELEMENTWISE, lambda node, operation, before: before),
            (POOLS, lambda node, operation, before: before if before.kind in ("image", "input") else None),
            (FLATTENS, _after_flatten),
            (RESHAPES, _after_reshape),
            (MEANS, _after_mean),
            (SCALES, lambda node, operation, before: before if _has_scalar_operand(node) else None),
        ]
        rule = next((rule for members, rule in rules if _matches(operation, members)), None)
        if rule is None or len(inputs) != 1 or _args(node)[0] is not inputs[0]:
            raise self._unsupported(node)
        after = rule(node, operation, self.channels[inputs[0]])
        if after is None:
            raise self._unsupported(node, f" of {self.channels[inputs[0]]}")
        self._append(node, "same", inputs, after)


def _args(node: fx.Node) -> tuple[Any, ...]:
    return node.args


def _matches(operation: Any, members: tuple[Any, ...]) -> bool:
    """Return whether a module is an instance of one of `members`, or a function or method name is one of them."""
    if isinstance(operation, nn.Module):
        return isinstance(operation, tuple(member for member in members if inspect.isclass(member)))
    return any(operation == member for member in members)


def _after_flatten(node: fx.Node, operation: Any, before: Channels) -> Channels | None:
    """Return the channels after flattening dimensions 1 to -1; None for other dimensions."""
    if isinstance(operation, nn.Flatten):
        dims: dict[str, Any] = {"start_dim": operation.start_dim, "end_dim": operation.end_dim}
    else:
        given = dict(zip(("start_dim", "end_dim"), _args(node)[1:], strict=False))
        dims = {"start_dim": 0, "end_dim": -1, **given, **node.kwargs}
    if (dims["start_dim"], dims["end_dim"]) != (1, -1):
        return None
    return _flat(before)


def _after_reshape(node: fx.Node, operation: Any, before: Channels) -> Channels | None:
    """Return the channels after `x.view(x.size(0), -1)` or `x.view(-1, n)` with n a multiple of the channels.

    The second form could also move pixels into the batch dimension; networks for image classification do not do so.
    """
    sizes = _args(node)[1] if len(_args(node)) == 2 else _args(node)[1:]
    if not isinstance(sizes, (tuple, list)) or len(sizes) != 2:
        return None
    first, second = sizes
    if second == -1 and isinstance(first, fx.Node) and _is_batch_size(first):
        return _flat(before)
    whole = before.kind == "image" and isinstance(second, int) and second > 0 and second % before.count == 0
    if whole and (first == -1 or (isinstance(first, fx.Node) and _is_batch_size(first))):
        return _flat(before)
    return None


def _is_batch_size(node: fx.Node) -> bool:
    """Return whether a node is `x.size(0)`, `x.size()[0]` or `x.shape[0]`."""
    if node.target == "size":
        return len(_args(node)) == 2 and _args(node)[1] == 0
    if node.target is not operator.getitem or _args(node)[1] != 0:
        return False
    sizes = _args(node)[0]
    whole = sizes.target == "size" and len(_args(sizes)) == 1
    return whole or (sizes.target is getattr and _args(sizes)[1] == "shape")


def _flat(before: Channels) -> Channels | None:
    if before.kind in ("flat", "input"):
        return before
    return Channels("flat", before.count) if before.kind == "image" else None


def _after_mean(node: fx.Node, operation: Any, before: Channels) -> Channels | None:
    """Return the channels after a mean over all spatial dimensions; None for other dimensions."""
    dims: Any = _args(node)[1] if len(_args(node)) > 1 else node.kwargs.get("dim")
    keep = _args(node)[2] if len(_args(node)) > 2 else node.kwargs.get("keepdim", False)
    if before.kind != "image" or dims is None:
        return None
    over = {d % (2 + before.spatial) for d in (dims if isinstance(dims, (tuple, list)) else [dims])}
    if over != set(range(2, 2 + before.spatial)):
        return None
    return before if keep else Channels("features", before.count)


def _has_scalar_operand(node: fx.Node) -> bool:
    return len(_args(node)) == 2 and isinstance(_args(node)[1], (int, float)) and not node.kwargs
