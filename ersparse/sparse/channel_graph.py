"""From a module to the steps of its channel graph: torch.fx, and what each tensor's channels are on the way.

Only what is known to keep channels apart is followed; anything else is an error, since a wrong number is worse.
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
    """The network does something whose flow cannot be followed."""


@dataclass(frozen=True)
class Carrier:
    """What a tensor's channels are.

    Attributes:
        kind: "input", of unknown shape; "image" [B, channels, *spatial]; "flat" [B, channels * pixels]; "features"
            [B, channels].
        spatial: dimensions of an image.
    """

    kind: str
    channels: int = 0
    spatial: int = 0


def trace(network: nn.Module) -> list[ChannelOp]:
    """The steps of `network`, in the order in which it computes them. Arguments with a default keep it.

    Raises:
        GraphError: names the operation that cannot be followed.
    """
    if isinstance(network, Prunable):  # which torch.fx would look into
        return [ChannelOp("input", ()), ChannelOp("layer", (0,), "weight"), ChannelOp("output", (1,))]
    parameters = inspect.signature(network.forward).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
    try:
        graph = fx.symbolic_trace(network, concrete_args=defaults or None).graph
    except Exception as error:  # whatever the module's own code raises when it is run on proxies
        raise GraphError(f"the network cannot be traced ({error}); flow=none does without") from None
    follower = Follower(network)
    for node in graph.nodes:
        follower.follow(node)
    return follower.steps


class Follower:
    """Goes from node to node. `steps` are those so far, `carriers` the tensors with channels among their results."""

    def __init__(self, network: nn.Module) -> None:
        self.steps: list[ChannelOp] = []
        self.carriers: dict[fx.Node, Carrier] = {}
        self.number: dict[fx.Node, int] = {}
        self.modules = dict(network.named_modules())
        self.names = {id(module.weight): name for name, module in prunable_modules(network).items()}

    def follow(self, node: fx.Node) -> None:
        if self._is_size(node):
            return
        if node.op == "output":
            self._add(node, "output", node.all_input_nodes, Carrier("output"))
            return
        if node.op == "placeholder":
            self._add(node, "input", [], Carrier("input"))
            return
        what = self.modules[str(node.target)] if node.op == "call_module" else node.target
        if isinstance(what, Prunable):
            self._layer(node, what)
        elif _is(what, CATS):
            self._cat(node)
        elif _is(what, ADDS) and len(self._carried(node)) == 2 and len(_args(node)) == 2:
            self._sum(node)
        else:
            self._one_to_one(node, what)

    def _is_size(self, node: fx.Node) -> bool:
        """Whether a node computes with sizes and constants, not with channels."""
        if node.op == "placeholder":
            return bool(_args(node))  # one with a default
        if node.op in ("output", "call_module", "get_attr"):
            return False
        return node.target in ("size", "dim", getattr) or not self._carried(node)

    def _carried(self, node: fx.Node) -> list[fx.Node]:
        return [argument for argument in node.all_input_nodes if argument in self.carriers]

    def _add(self, node: fx.Node, kind: str, inputs: list[fx.Node], carrier: Carrier, layer: str = "") -> None:
        if any(argument not in self.carriers for argument in inputs):
            raise self._unknown(node)
        self.number[node] = len(self.steps)
        self.steps.append(ChannelOp(kind, tuple(self.number[argument] for argument in inputs), layer))
        self.carriers[node] = carrier

    def _unknown(self, node: fx.Node, why: str = "") -> GraphError:
        name = getattr(node.target, "__name__", node.target)
        return GraphError(f"the flow through {name}{why} cannot be followed; flow=none does without")

    def _layer(self, node: fx.Node, module: Prunable) -> None:
        if len(_args(node)) != 1 or _args(node)[0] not in self.carriers:
            raise self._unknown(node)
        before = self.carriers[_args(node)[0]]
        if isinstance(module, nn.Linear):
            fits = before.kind == "features" and before.channels == module.in_features
            fits = fits or (before.kind == "flat" and module.in_features % before.channels == 0)
            after = Carrier("features", module.out_features)
        else:
            spatial = module.weight.dim() - 2
            fits = before == Carrier("image", module.in_channels, spatial)
            after = Carrier("image", module.out_channels, spatial)
        if not (fits or before.kind == "input"):
            raise self._unknown(node, f" ({type(module).__name__} on {_said(before)})")
        self._add(node, "layer", [_args(node)[0]], after, self.names[id(module.weight)])

    def _cat(self, node: fx.Node) -> None:
        """Side by side, images as images and features as features."""
        parts = _args(node)[0] if _args(node) else node.kwargs.get("tensors")
        dim = _args(node)[1] if len(_args(node)) > 1 else node.kwargs.get("dim", 0)
        if not isinstance(parts, (list, tuple)) or any(part not in self.carriers for part in parts) or dim != 1:
            raise self._unknown(node)
        found = [self.carriers[part] for part in parts]
        kinds = {(carrier.kind, carrier.spatial) for carrier in found}
        if len(kinds) != 1 or found[0].kind not in ("image", "features"):
            raise self._unknown(node, f" of {', '.join(map(_said, found))}")
        whole = Carrier(found[0].kind, sum(carrier.channels for carrier in found), found[0].spatial)
        self._add(node, "cat", list(parts), whole)

    def _sum(self, node: fx.Node) -> None:
        first, second = (self.carriers[argument] for argument in _args(node))
        if first != second or first.kind == "input":
            raise self._unknown(node, f" of {_said(first)} and {_said(second)}")
        self._add(node, "add", list(_args(node)), first)

    def _one_to_one(self, node: fx.Node, what: Any) -> None:
        """What passes each channel on to one channel."""
        carried = self._carried(node)
        rules: list[tuple[tuple[Any, ...], Callable[[fx.Node, Any, Carrier], Carrier | None]]] = [
            (ELEMENTWISE, lambda node, what, before: before),
            (POOLS, lambda node, what, before: before if before.kind in ("image", "input") else None),
            (FLATTENS, _flattened),
            (RESHAPES, _reshaped),
            (MEANS, _averaged),
            (SCALES, lambda node, what, before: before if _by_number(node) else None),
        ]
        rule = next((rule for members, rule in rules if _is(what, members)), None)
        if rule is None or len(carried) != 1 or _args(node)[0] is not carried[0]:
            raise self._unknown(node)
        after = rule(node, what, self.carriers[carried[0]])
        if after is None:
            raise self._unknown(node, f" of {_said(self.carriers[carried[0]])}")
        self._add(node, "same", carried, after)


def _args(node: fx.Node) -> tuple[Any, ...]:
    return node.args


def _is(what: Any, members: tuple[Any, ...]) -> bool:
    """Whether a module is of a class among `members`, or a function or method name one of them."""
    if isinstance(what, nn.Module):
        return isinstance(what, tuple(member for member in members if inspect.isclass(member)))
    return any(what == member for member in members)


def _flattened(node: fx.Node, what: Any, before: Carrier) -> Carrier | None:
    """From dimension 1 to the last."""
    if isinstance(what, nn.Flatten):
        dims: dict[str, Any] = {"start_dim": what.start_dim, "end_dim": what.end_dim}
    else:
        given = dict(zip(("start_dim", "end_dim"), _args(node)[1:], strict=False))
        dims = {"start_dim": 0, "end_dim": -1, **given, **node.kwargs}
    if (dims["start_dim"], dims["end_dim"]) != (1, -1):
        return None
    return _flat(before)


def _reshaped(node: fx.Node, what: Any, before: Carrier) -> Carrier | None:
    """`x.view(x.size(0), -1)`, or `x.view(-1, 400)` with a multiple of the channels.

    The second could also move pixels into the batch; a network that classifies images does not.
    """
    sizes = _args(node)[1] if len(_args(node)) == 2 else _args(node)[1:]
    if not isinstance(sizes, (tuple, list)) or len(sizes) != 2:
        return None
    first, second = sizes
    if second == -1 and isinstance(first, fx.Node) and _is_batch_size(first):
        return _flat(before)
    whole = before.kind == "image" and isinstance(second, int) and second > 0 and second % before.channels == 0
    if whole and (first == -1 or (isinstance(first, fx.Node) and _is_batch_size(first))):
        return _flat(before)
    return None


def _is_batch_size(node: fx.Node) -> bool:
    """`x.size(0)`, `x.size()[0]` or `x.shape[0]`."""
    if node.target == "size":
        return len(_args(node)) == 2 and _args(node)[1] == 0
    if node.target is not operator.getitem or _args(node)[1] != 0:
        return False
    sizes = _args(node)[0]
    whole = sizes.target == "size" and len(_args(sizes)) == 1
    return whole or (sizes.target is getattr and _args(sizes)[1] == "shape")


def _flat(before: Carrier) -> Carrier | None:
    if before.kind in ("flat", "input"):
        return before
    return Carrier("flat", before.channels) if before.kind == "image" else None


def _averaged(node: fx.Node, what: Any, before: Carrier) -> Carrier | None:
    """Over all pixels."""
    dims: Any = _args(node)[1] if len(_args(node)) > 1 else node.kwargs.get("dim")
    keep = _args(node)[2] if len(_args(node)) > 2 else node.kwargs.get("keepdim", False)
    if before.kind != "image" or dims is None:
        return None
    over = {d % (2 + before.spatial) for d in (dims if isinstance(dims, (tuple, list)) else [dims])}
    if over != set(range(2, 2 + before.spatial)):
        return None
    return before if keep else Carrier("features", before.channels)


def _by_number(node: fx.Node) -> bool:
    return len(_args(node)) == 2 and isinstance(_args(node)[1], (int, float)) and not node.kwargs


def _said(carrier: Carrier) -> str:
    said = {"input": "the input", "image": "an image", "flat": "a flattened image", "features": "features"}
    return said[carrier.kind] + (f" of {carrier.channels} channels" if carrier.channels else "")
