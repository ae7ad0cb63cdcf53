"""Tracing the channel graph of a module with torch.fx.

The tracer follows how each tensor's channels arise from those of earlier tensors. It accepts only operations that are
known to keep channels apart (`ersparse.sparse.channel_rules`), and raises on all others, because a wrong effective
density would go unnoticed.
"""

from __future__ import annotations

import inspect
from typing import Any

from torch import fx, nn

from ersparse.sparse.channel_rules import ADDS, CATS, Channels, args_of, computes_as_base, matches, rule_of
from ersparse.sparse.layers import Prunable, prunable_weights
from ersparse.sparse.reachability import ChannelOp


class GraphError(ValueError):
    """A network whose channel graph cannot be traced; the message names the operation."""


def trace(network: nn.Module) -> list[ChannelOp]:
    """Return the channel graph of `network`, in the order of computation.

    Arguments of `forward` that have a default keep it.

    Raises:
        GraphError: an operation is not supported; the message names it.
    """
    if isinstance(network, Prunable) and computes_as_base(network):  # torch.fx would trace the operations inside it
        return [ChannelOp("input", ()), ChannelOp("layer", (0,), "weight"), ChannelOp("output", (1,))]
    parameters = inspect.signature(network.forward).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
    try:
        graph = LayerTracer().trace(network, concrete_args=defaults or None)
    except Exception as error:  # the module's own code runs on proxies, and may raise anything
        raise GraphError(f"the network cannot be traced ({error}); flow=none needs no channel graph") from None
    tracer = ChannelTracer(network)
    for node in graph.nodes:
        tracer.visit(node)
    return tracer.ops


class LayerTracer(fx.Tracer):
    """Tracer that takes subclasses of PyTorch's layers as one operation where they compute as their base does."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Return whether `m` is one operation of the graph; the tracer looks inside all other modules."""
        if "forward" in vars(m):  # replaced in this instance
            return False
        is_leaf = super().is_leaf_module(m, module_qualified_name)
        return is_leaf or (not any(True for _ in m.children()) and computes_as_base(m))


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
        self.layer_names = {id(held.weight): name for name, held in prunable_weights(network).items()}

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
        elif matches(operation, CATS):
            self._visit_cat(node)
        elif matches(operation, ADDS) and len(self._channel_inputs(node)) == 2 and len(args_of(node)) == 2:
            self._visit_add(node)
        else:
            self._visit_channelwise(node, operation)

    def _is_size(self, node: fx.Node) -> bool:
        """Return whether a node computes with sizes and constants rather than with channels."""
        if node.op == "placeholder":
            return bool(args_of(node))  # an argument with a default
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
        if len(args_of(node)) != 1 or args_of(node)[0] not in self.channels:
            raise self._unsupported(node)
        before = self.channels[args_of(node)[0]]
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
        self._append(node, "layer", [args_of(node)[0]], after, self.layer_names[id(module.weight)])

    def _visit_cat(self, node: fx.Node) -> None:
        """Concatenate images with images, or features with features, along the channels."""
        parts = args_of(node)[0] if args_of(node) else node.kwargs.get("tensors")
        dim = args_of(node)[1] if len(args_of(node)) > 1 else node.kwargs.get("dim", 0)
        if not isinstance(parts, (list, tuple)) or any(part not in self.channels for part in parts) or dim != 1:
            raise self._unsupported(node)
        found = [self.channels[part] for part in parts]
        kinds = {(channels.kind, channels.spatial) for channels in found}
        if len(kinds) != 1 or found[0].kind not in ("image", "features"):
            raise self._unsupported(node, f" of {', '.join(map(str, found))}")
        whole = Channels(found[0].kind, sum(channels.count for channels in found), found[0].spatial)
        self._append(node, "cat", list(parts), whole)

    def _visit_add(self, node: fx.Node) -> None:
        first, second = (self.channels[argument] for argument in args_of(node))
        if first != second or first.kind == "input":
            raise self._unsupported(node, f" of {first} and {second}")
        self._append(node, "add", list(args_of(node)), first)

    def _visit_channelwise(self, node: fx.Node, operation: Any) -> None:
        """Add an operation that passes each channel on to one channel."""
        inputs, rule = self._channel_inputs(node), rule_of(operation)
        if rule is None or len(inputs) != 1 or args_of(node)[0] is not inputs[0]:
            raise self._unsupported(node)
        after = rule(node, operation, self.channels[inputs[0]])
        if after is None:
            raise self._unsupported(node, f" of {self.channels[inputs[0]]}")
        self._append(node, "same", inputs, after)
