"""From a module to what the kernels do: convolutions, and one fused step between each of them and the next.

A step is pool(relu(norm(source) + residual)); what a network does between two convolutions is folded into as few of
them as there can be.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import fx, nn
from torch.nn import functional as F

from ersparse.sparse.layers import prunable_modules

FLATTENS = (torch.flatten, "flatten")


class NotCovered(ValueError):
    """The network does something that there is no kernel for. The message names it."""


@dataclass(eq=False)
class Node:
    """Something that the network computes.

    Attributes:
        position: the place of its last part in the order of computation.
        users: the nodes that read it.
    """

    position: int
    users: list[Node] = field(default_factory=list, init=False)


N = TypeVar("N", bound=Node)


@dataclass(eq=False)
class Image(Node):
    """What comes in."""


@dataclass(eq=False)
class Convolution(Node):
    """A convolution, or a linear layer as the convolution whose kernel is the whole image.

    Attributes:
        name: of its weight parameter.
        kernel: None for a linear layer.
    """

    source: FusedStep | Image
    name: str
    module: nn.Conv2d | nn.Linear
    kernel: tuple[int, int] | None = None
    stride: int = 1
    padding: tuple[int, int] = (0, 0)
    groups: int = 1


@dataclass(eq=False)
class FusedStep(Node):
    """pool(relu(norm(source) + residual)), any of them left out.

    Attributes:
        pool: "max" or "average" over windows that do not overlap; `window` None is the whole image.
        stays: whether its result is kept from the forward to the backward pass, and not computed anew.
    """

    source: Convolution | FusedStep | Image
    norm: nn.BatchNorm2d | None = None
    residual: FusedStep | Image | None = None
    relu: bool = False
    pool: str = ""
    window: tuple[int, int] | None = (1, 1)

    @property
    def stays(self) -> bool:
        return not (len(self.users) == 1 and isinstance(self.users[0], Convolution))

    @property
    def open(self) -> bool:
        """Whether a sum may still be folded into it."""
        return not (self.relu or self.pool or self.residual)


class FusedGraph:
    """The nodes of a network in the order of their computation; the last is its output.

    Attributes:
        flat: whether the output is [B, features], else [B, C, H, W].

    Raises:
        NotCovered: names the first thing that is not.
    """

    def __init__(self, network: nn.Module) -> None:
        self.nodes: list[Node] = []
        self._modules = dict(network.named_modules())
        self._names = {id(module.weight): name for name, module in prunable_modules(network).items()}
        self._values: dict[fx.Node, Any] = {}
        self._shared: set[Node] = set()  # read in several places: nothing more is folded into these
        self._flat: set[fx.Node] = set()
        for position, node in enumerate(self._traced(network).nodes):
            if node.op == "output":
                self._end(node, position)
                continue
            value = self._follow(node, position)
            if len(node.users) != 1:
                value = self._closed(value, position)
                self._shared.add(value)
            self._values[node] = value
        self.nodes.sort(key=lambda node: node.position)
        for node in self.nodes:
            for read in (getattr(node, "source", None), getattr(node, "residual", None)):
                if read is not None:
                    read.users.append(node)

    @property
    def convolutions(self) -> list[Convolution]:
        return [node for node in self.nodes if isinstance(node, Convolution)]

    @property
    def norms(self) -> list[nn.BatchNorm2d]:
        return [node.norm for node in self.nodes if isinstance(node, FusedStep) and node.norm is not None]

    @property
    def output(self) -> Node:
        return self.nodes[-1]

    def _traced(self, network: nn.Module) -> fx.Graph:
        if isinstance(network, nn.Conv2d | nn.Linear):  # which torch.fx would look into
            network = nn.Sequential(network)
            self._modules = dict(network.named_modules())
        try:
            return fx.symbolic_trace(network).graph
        except Exception as error:  # whatever the module's own code raises when it is run on proxies
            raise NotCovered(f"{type(network).__name__} cannot be traced ({error})") from None

    def _end(self, node: fx.Node, position: int) -> None:
        value = self._values.get(node.args[0]) if isinstance(node.args[0], fx.Node) else None
        if not isinstance(value, Convolution | FusedStep):
            raise NotCovered("an output other than one tensor of a layer")
        value.position = position
        self.flat = node.args[0] in self._flat

    def _add(self, node: N) -> N:
        self.nodes.append(node)
        return node

    def _closed(self, value: Any, position: int) -> Any:
        """As something that several may read: the result of a convolution is read by one step only."""
        return self._add(FusedStep(position, value)) if isinstance(value, Convolution) else value

    def _follow(self, node: fx.Node, position: int) -> Any:
        if node.op == "placeholder":
            return self._add(Image(position))
        what = self._modules[str(node.target)] if node.op == "call_module" else node.target
        read = [self._values[argument] for argument in node.args if isinstance(argument, fx.Node)]
        if self._flat & set(node.all_input_nodes) or isinstance(what, nn.Linear | nn.Flatten) or what in FLATTENS:
            self._flat.add(node)
        if isinstance(what, nn.Conv2d | nn.Linear):
            return self._convolution(str(node.target), what, read[0], position)
        if isinstance(what, nn.Identity | nn.Flatten) or what in (*FLATTENS, "contiguous"):
            return self._passed(node, what, read[0], position)
        if what in (operator.add, operator.iadd, torch.add) and len(read) == 2 and read[0] is not read[1]:
            return self._sum(read[0], read[1], position)
        if type(what) is nn.BatchNorm2d and what.affine and what.track_running_stats and what.momentum:
            return self._add(FusedStep(position, read[0], norm=what))
        if isinstance(what, nn.ReLU) or what in (F.relu, torch.relu, "relu"):
            return self._folded(read[0], position, relu=True)
        if isinstance(what, nn.MaxPool2d | nn.AvgPool2d | nn.AdaptiveAvgPool2d):
            return self._folded(read[0], position, **self._pool(str(node.target), what))
        raise NotCovered(f"{node.target} ({_kind(what)})")

    def _passed(self, node: fx.Node, what: Any, value: Any, position: int) -> Any:
        """Flattening changes nothing: the layout has channels first, and linear layers take whole images."""
        if isinstance(what, nn.Flatten) and (what.start_dim, what.end_dim) != (1, -1):
            raise NotCovered(f"{node.target} (Flatten from dimension {what.start_dim})")
        if what in FLATTENS and (tuple(node.args[1:]), dict(node.kwargs)) not in (
            ((1,), {}), ((1, -1), {}), ((), {"start_dim": 1}),
        ):  # fmt: skip
            raise NotCovered(f"{node.name} (flatten, but from dimension 1 on)")
        return value

    def _convolution(self, path: str, module: nn.Conv2d | nn.Linear, source: Any, position: int) -> Convolution:
        source, name = self._closed(source, position), self._names[id(module.weight)]
        if isinstance(module, nn.Linear):
            return self._add(Convolution(position, source, name, module))
        if isinstance(module.padding, str) or module.padding_mode != "zeros" or set(module.dilation) != {1}:
            raise NotCovered(f"{path} (Conv2d with padding={module.padding}, {module.padding_mode}, or dilation)")
        if len(set(module.stride)) != 1:
            raise NotCovered(f"{path} (Conv2d with stride={module.stride})")
        kernel, padding = _pair(module.kernel_size), _pair(module.padding)
        return self._add(Convolution(position, source, name, module, kernel, module.stride[0], padding, module.groups))

    def _sum(self, first: Any, second: Any, position: int) -> FusedStep:
        for one, other in ((first, second), (second, first)):
            if isinstance(one, FusedStep) and one.open and one not in self._shared:
                one.residual, one.position = self._closed(other, position), position
                return one
        residual = self._closed(second, position)
        return self._add(FusedStep(position, first, residual=residual))

    def _folded(self, source: Any, position: int, **parts: Any) -> FusedStep:
        """Into the step before, where it has not come that far yet."""
        if (
            not isinstance(source, FusedStep)
            or source in self._shared
            or source.pool
            or (source.relu and "relu" in parts)
        ):
            return self._add(FusedStep(position, source, **parts))
        source.position = position
        for name, value in parts.items():
            setattr(source, name, value)
        return source

    def _pool(self, path: str, module: nn.Module) -> dict[str, Any]:
        if isinstance(module, nn.AdaptiveAvgPool2d):
            if module.output_size not in (1, (1, 1)):
                raise NotCovered(f"{path} (AdaptiveAvgPool2d to {module.output_size})")
            return {"pool": "average", "window": None}
        assert isinstance(module, nn.MaxPool2d | nn.AvgPool2d)
        window, stride, padding = (_pair(v) for v in (module.kernel_size, module.stride, module.padding))
        plain = padding == (0, 0) and not module.ceil_mode and getattr(module, "dilation", 1) in (1, (1, 1))
        if window != stride or not plain or getattr(module, "divisor_override", None):
            raise NotCovered(f"{path} ({_kind(module)} with windows that overlap, padding or dilation)")
        return {"pool": "max" if isinstance(module, nn.MaxPool2d) else "average", "window": window}


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def _kind(what: Any) -> str:
    return type(what).__name__ if isinstance(what, nn.Module) else getattr(what, "__name__", str(what))
