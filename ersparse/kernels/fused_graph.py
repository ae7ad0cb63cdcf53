"""Operator fusion: the graph of a network as convolutions, and one fused step between consecutive convolutions.

A fused step computes pool(activation(norm(source) + residual)), and any of its operations may be absent. What a network
computes between two convolutions becomes as few of these steps as possible.
"""

from __future__ import annotations

import operator
from typing import Any, TypeVar

import torch
from torch import fx, nn

from ersparse.kernels.activations import activation_of
from ersparse.kernels.calls import FLATTEN_FUNCTIONS, called
from ersparse.kernels.nodes import Concatenation, Convolution, DropoutMask, FusedStep, Input, Node, NotCovered, Product
from ersparse.kernels.padding import Padded, axes_of, paddings
from ersparse.kernels.pooling import POOLS, Pool, pool_of
from ersparse.kernels.reshaping import Requirement, Size, check_flatten, reads_size, size_of, view
from ersparse.kernels.shapes import ImageShape, infer_shapes
from ersparse.sparse.layers import prunable_weights

SUMS = (operator.add, operator.iadd, torch.add, "add", "add_")
PRODUCTS = (operator.mul, operator.imul, torch.mul, "mul", "mul_")
CONCATENATIONS = (torch.cat, torch.concat, torch.concatenate)
UNFLATTEN_FUNCTIONS = (torch.unflatten, "unflatten")
VIEWS = ("view", "reshape", torch.reshape)
MEANS = ("mean", torch.mean)
DROPOUTS = (nn.Dropout, nn.Dropout2d)
N = TypeVar("N", bound=Node)


class FusedGraph:
    """The fused graph of a network, traced by torch.fx.

    Args:
        network: any module; its weights are not read, so it may be on the meta device.
        evaluation: whether it is the graph of the network in evaluation mode, in which dropout does nothing;
            otherwise in training mode.

    Attributes:
        nodes: in the order of computation; the last one is the output.
        output_is_flat: whether the output is [B, features] rather than [B, C, H, W].

    Raises:
        NotCovered: names the first operation that has no kernel.
    """

    def __init__(self, network: nn.Module, evaluation: bool = False) -> None:
        self._evaluation = evaluation
        self.nodes: list[Node] = []
        self._modules = dict(network.named_modules())
        self._names = {id(held.weight): name for name, held in prunable_weights(network).items()}
        self._values: dict[fx.Node, Any] = {}
        self._shared: set[Node] = set()  # read by several nodes: nothing more may be fused into these
        self._flat: set[fx.Node] = set()  # traced tensors that are [B, features]
        self._requirements: list[Requirement] = []
        for position, node in enumerate(self._trace(network).nodes):
            if node.op == "output":
                self._set_output(node, position)
                continue
            value = self._convert(node, position)
            if sum(not reads_size(user) for user in node.users) != 1:
                value = self._as_step(value, position)
                self._shared.add(value)
            self._values[node] = value
        self.nodes.sort(key=lambda node: node.position)
        self._link_users()

    @property
    def norms(self) -> list[nn.BatchNorm1d | nn.BatchNorm2d]:
        """The batch normalisations in the order of computation."""
        return [node.norm for node in self.nodes if isinstance(node, FusedStep) and node.norm is not None]

    @property
    def has_pixels(self) -> bool:
        """Whether images keep their height and width; otherwise every layer is linear and reads flat features."""
        kernels = [node.kernel for node in self.nodes if isinstance(node, Convolution)]
        steps = [node for node in self.nodes if isinstance(node, FusedStep)]
        return any(kernels) or any(step.norm or step.pool for step in steps)

    @property
    def output(self) -> Node:
        """The node that computes the network's output."""
        return self.nodes[-1]

    def shapes(self, image: ImageShape) -> dict[Node, ImageShape]:
        """Return the shape of each node for images of one shape.

        Raises:
            NotCovered: an operation does not fit its operands, or broadcasts them in a way that has no kernel.
        """
        return infer_shapes(self.nodes, self._requirements, image)

    def _trace(self, network: nn.Module) -> fx.Graph:
        if isinstance(network, nn.Conv1d | nn.Conv2d | nn.Linear):
            # torch.fx would trace into the root module's own code
            network = nn.Sequential(network)
            self._modules = dict(network.named_modules())
        modes = {module: module.training for module in network.modules()}
        for module in modes:  # the forward pass may depend on the mode
            module.training = not self._evaluation
        try:
            return fx.symbolic_trace(network).graph
        except Exception as error:  # the module's own code may raise anything when it is executed on proxies
            raise NotCovered(f"{type(network).__name__} cannot be traced ({error})") from None
        finally:
            for module, training in modes.items():
                module.training = training

    def _set_output(self, node: fx.Node, position: int) -> None:
        value = self._values.get(node.args[0]) if isinstance(node.args[0], fx.Node) else None
        if not isinstance(value, Node) or isinstance(value, Input):
            raise NotCovered("an output other than one tensor of a layer")
        value.position = position
        self.output_is_flat = node.args[0] in self._flat

    def _link_users(self) -> None:
        for node in self.nodes:
            for operand in node.operands:
                operand.users.append(node)

    def _add(self, node: N) -> N:
        self.nodes.append(node)
        return node

    def _as_step(self, value: Any, position: int) -> Any:
        """Wrap a convolution in an identity step: a convolution's output has one reader, a step's may have several."""
        return self._add(FusedStep(position, value)) if isinstance(value, Convolution) else value

    def _convert(self, node: fx.Node, position: int) -> Any:
        """Return the fused node that computes the traced `node`; its operands have been converted before."""
        if node.op == "placeholder":
            return self._add(Input(position))
        target = called(node, self._modules)
        operands = [v for v in map(self._values.__getitem__, _tensors(node)) if not isinstance(v, Size)]
        flat = bool(self._flat & set(_tensors(node)))
        size = size_of(node, operands[0] if operands else None, flat)
        if size is not None:
            return size
        if isinstance(target, nn.Conv1d | nn.Conv2d):
            return self._convolution(str(node.target), target, operands[0], position)
        if any(isinstance(operand, Padded) for operand in operands):
            raise NotCovered(f"{node.target} ({_type_name(target)} after padding)")
        for convert in (self._reshaped, self._combined):
            value = convert(node, target, operands, position)
            if value is not None:
                return value
        if flat or isinstance(target, nn.Linear):
            self._flat.add(node)
        if isinstance(target, nn.Linear):
            return self._linear(target, operands[0], position)
        if isinstance(target, nn.ZeroPad2d) and min(target.padding) >= 0:
            left, right, top, bottom = target.padding
            return Padded(self._as_step(operands[0], position), (top, left), (bottom, right))
        idle = isinstance(target, DROPOUTS) and (self._evaluation or not target.p)
        if idle or isinstance(target, nn.Identity) or target == "contiguous":
            return operands[0]
        if isinstance(target, DROPOUTS):
            return self._dropout(target, operands[0], flat, position)
        return self._elementwise_or_pooled(node, target, operands, position)

    def _elementwise_or_pooled(self, node: fx.Node, target: Any, operands: list[Node], position: int) -> FusedStep:
        """Return the fused step of a normalisation, activation or pooling."""
        norms = (nn.BatchNorm1d, nn.BatchNorm2d, *([nn.SyncBatchNorm] if self._evaluation else []))
        if type(target) in norms and target.affine and target.track_running_stats and target.momentum:
            if node in self._flat:
                self._requirements.append(Requirement(node.name, operands[0], single_pixel=True))
            return self._add(FusedStep(position, operands[0], norm=target))
        if activation := activation_of(target):
            return self._fuse(operands[0], position, activation=activation)
        if isinstance(target, POOLS):
            pool = pool_of(target)
            if isinstance(pool, str):
                raise NotCovered(f"{node.target} ({_type_name(target)} {pool})")
            return self._fuse(operands[0], position, pool=pool)
        raise NotCovered(f"{node.target} ({_type_name(target)})")

    def _combined(self, node: fx.Node, target: Any, operands: list[Node], position: int) -> Node | None:
        """Return the sum, product or concatenation of tensors, or None for another operation."""
        if not operands or target not in (*SUMS, *PRODUCTS, *CONCATENATIONS):
            return None
        flat = {tensor in self._flat for tensor in _tensors(node)}
        if len(flat) > 1:
            raise NotCovered(f"{node.name} ({_type_name(target)} of [B, features] and [B, C, H, W])")
        if flat == {True}:
            self._flat.add(node)
        if target in CONCATENATIONS:
            axis = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
            if axis not in (1, -1 if flat == {True} else -3):
                raise NotCovered(f"{node.name} (concatenation along another dimension than 1)")
            return self._add(Concatenation(position, [self._as_step(source, position) for source in operands]))
        if len(operands) != 2 or (target in SUMS and (operands[0] is operands[1] or "alpha" in node.kwargs)):
            raise NotCovered(f"{node.name} ({_type_name(target)} of other than two tensors)")
        if target in SUMS:
            return self._sum(operands[0], operands[1], position)
        return self._add(Product(position, *(self._as_step(operand, position) for operand in operands)))

    def _reshaped(self, node: fx.Node, target: Any, operands: list[Node], position: int) -> Node | None:
        """Return the operand of a change of shape, the global average of means, or None for another operation.

        Channels come first in memory, and linear layers read whole images, so that a change of shape is free.
        """
        if isinstance(target, nn.Flatten) or target in FLATTEN_FUNCTIONS:
            check_flatten(node, target)
            self._flat.add(node)
            return operands[0]
        if target in VIEWS:
            sizes: Any = node.args[1] if isinstance(node.args[1], tuple | list) else node.args[1:]
            known = [self._values[size] if isinstance(size, fx.Node) else size for size in sizes]
            flat, requirement = view(node.name, operands[0], known)
            self._requirements.append(requirement)
            self._flat |= {node} if flat else set()
            return operands[0]
        if isinstance(target, nn.Unflatten) or target in UNFLATTEN_FUNCTIONS:
            self._requirements.append(self._unflattened(node, target, operands[0]))
            return operands[0]
        if target in MEANS:
            return self._mean(node, operands[0], position)
        return None

    def _unflattened(self, node: fx.Node, target: Any, value: Node) -> Requirement:
        arguments: Any = (target.dim, target.unflattened_size) if isinstance(target, nn.Unflatten) else node.args[1:]
        axis, sizes = arguments
        if axis != 1 or tuple(sizes[1:]) != (1, 1) or not self._flat & set(_tensors(node)):
            raise NotCovered(f"{node.name} (unflatten to another shape than [B, C, 1, 1])")
        return Requirement(node.name, value, None if sizes[0] == -1 else sizes[0], single_pixel=True)

    def _mean(self, node: fx.Node, value: Node, position: int) -> FusedStep:
        axes = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
        keep = node.args[2] if len(node.args) > 2 else node.kwargs.get("keepdim", False)
        pixels = isinstance(axes, tuple | list) and sorted(axis % 4 for axis in axes) == [2, 3]
        if not pixels or self._flat & set(_tensors(node)):
            raise NotCovered(f"{node.name} (mean over other dimensions than 2 and 3)")
        self._flat |= set() if keep else {node}
        return self._fuse(value, position, pool=Pool("average"))

    def _dropout(self, module: nn.Dropout | nn.Dropout2d, value: Node, flat: bool, position: int) -> Product:
        """Return the product with a dropout mask."""
        per_channel = isinstance(module, nn.Dropout2d)
        if per_channel and flat:
            raise NotCovered("Dropout2d of [B, features]")
        source = self._as_step(value, position)
        mask = self._add(DropoutMask(position, source, float(module.p), per_channel))
        return self._add(Product(position, source, mask))

    def _linear(self, module: nn.Linear, source: Any, position: int) -> Convolution:
        return self._add(Convolution(position, self._as_step(source, position), self._names[id(module.weight)], module))

    def _convolution(self, path: str, module: nn.Conv1d | nn.Conv2d, source: Any, position: int) -> Convolution:
        if module.padding_mode != "zeros":
            raise NotCovered(f"{path} ({_type_name(module)} with padding={module.padding}, {module.padding_mode})")
        kernel, stride, dilation = (axes_of(v, 1) for v in (module.kernel_size, module.stride, module.dilation))
        padding = module.padding if isinstance(module.padding, str) else axes_of(module.padding, 0)
        before, after = paddings(padding, kernel, dilation)
        if isinstance(source, Padded):
            source, (top, left), (bottom, right) = source
            before, after = (before[0] + top, before[1] + left), (after[0] + bottom, after[1] + right)
        source, name = self._as_step(source, position), self._names[id(module.weight)]
        return self._add(
            Convolution(position, source, name, module, kernel, stride, before, after, module.groups, dilation)
        )

    def _sum(self, first: Any, second: Any, position: int) -> FusedStep:
        """Fuse the sum into the step that computes one of its operands, or add a step for it."""
        for step, other in ((first, second), (second, first)):
            if isinstance(step, FusedStep) and step.accepts("residual") and step not in self._shared:
                step.residual, step.position = self._as_step(other, position), position
                return step
        if isinstance(second, Convolution) and first.position < second.position:
            first, second = second, first  # a convolution can add what is computed before it
        return self._add(FusedStep(position, first, residual=self._as_step(second, position)))

    def _fuse(self, source: Any, position: int, **operation: Any) -> FusedStep:
        """Fuse an activation or a pooling into the step `source` if it accepts one, or add a step."""
        if not isinstance(source, FusedStep) or source in self._shared or not source.accepts(*operation):
            return self._add(FusedStep(position, source, **operation))
        source.position = position
        for name, value in operation.items():
            setattr(source, name, value)
        return source


def _tensors(node: fx.Node) -> list[fx.Node]:
    """Return the traced tensors that a call reads: its first arguments, up to one that is none."""
    first = node.args[0] if node.args else node.kwargs.get("input", node.kwargs.get("tensors", ()))
    arguments = first if isinstance(first, tuple | list) else (first, *node.args[1:])
    return [argument for argument in arguments if isinstance(argument, fx.Node)]


def _type_name(target: Any) -> str:
    return type(target).__name__ if isinstance(target, nn.Module) else getattr(target, "__name__", str(target))
