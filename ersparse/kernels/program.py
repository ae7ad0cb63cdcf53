"""A network, an image size and a number of images as a list of operations over buffers that are made once."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor

from ersparse.kernels import abi
from ersparse.kernels.abi import Op, pointer
from ersparse.kernels.buffers import Buffer, Normalisation, Number, Shape, Weights
from ersparse.kernels.compile import library
from ersparse.kernels.csr import Rows
from ersparse.kernels.fused_graph import Convolution, FusedGraph, FusedStep, Image, Node

NAMES = {torch.float32: "float", torch.float64: "double", torch.bfloat16: "bfloat16"}


class Program:
    """Runs `graph` on up to `images` images of one shape.

    Args:
        masks, values: by the name of the weight; values are the kept weights as one vector, in the order of
            `weight[mask]`.
        trains: batch statistics and a backward pass; else running statistics and scratch only.
        wants_image: whether the backward pass also gives the gradient of the images.

    Raises:
        NotCovered: a layer does not fit its input.
    """

    def __init__(
        self,
        graph: FusedGraph,
        masks: dict[str, Tensor],
        values: dict[str, Tensor],
        shape: Shape,
        images: int,
        number: Number,
        threads: int,
        trains: bool,
        wants_image: bool = False,
    ) -> None:
        self.kernels = library(NAMES[number.real], NAMES[number.stored])
        assert (self.kernels.size_of_op(), self.kernels.lanes()) == (ctypes.sizeof(Op), number.lanes)
        self.graph, self.number, self.trains, self.wants_image = graph, number, trains, wants_image
        self.images, self.threads = images, threads
        self.blocks = -(-images // number.lanes)
        self.slots = min(self.blocks, threads)
        self.alive: list[Any] = []  # what the operations point to
        self.shapes: dict[Node, Shape] = {}
        self.weights: dict[Convolution, Weights] = {}
        self.results: dict[Node, Buffer] = {}
        self.gradients: dict[Node, Buffer] = {}
        self.turned: dict[Convolution, tuple[Rows, Tensor]] = {}
        self.norms: dict[FusedStep, Normalisation] = {}
        self.written: set[Node] = set()
        self.sums: list[Op] = []
        for node in graph.nodes:
            self._allocate(node, masks, values, shape)
        self.parameters, self.parameter_gradients = self._trained()
        self.count = 0  # runs so far
        self.made_for: Any = None
        self._forward = self._packed(self._forward_ops())
        self._backward = self._packed(self._backward_ops() if trains else [])

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> the output, [B, ...]; B at most `images`."""
        (image,) = (node for node in self.graph.nodes if isinstance(node, Image))
        self.count += 1
        self.results[image].put(x)
        self._run(self._forward, len(x))
        y = self.results[self.graph.output].get(len(x)).to(self.number.real)
        return y.flatten(1) if self.graph.flat else y

    def backward(self, gradient: Tensor) -> Tensor | None:
        """Fills the gradients of `weights` and `norms`, for the images of the last `forward`; gives the images'."""
        self.gradients[self.graph.output].put(gradient)
        self._run(self._backward, len(gradient))
        image = next(node for node in self.graph.nodes if isinstance(node, Image))
        return self.gradients[image].get(len(gradient)).to(self.number.real) if self.wants_image else None

    def _run(self, ops: ctypes.Array[Op], images: int) -> None:
        self.kernels.run(ctypes.byref(ops), len(ops), images, self.threads)

    def _packed(self, ops: list[Op]) -> ctypes.Array[Op]:
        return (Op * len(ops))(*ops)

    def _trained(self) -> tuple[list[Tensor], list[Tensor]]:
        """Parameters, and where the backward pass leaves their gradients."""
        pairs: list[tuple[Tensor, Tensor]] = []
        for w in self.weights.values():
            pairs += [(w.values, w.gradient), *([(w.bias, w.bias_gradient)] if w.bias is not None else [])]
        for norm in self.norms.values():
            if norm.module is not None:
                pairs += [(norm.module.weight, norm.weight_gradient), (norm.module.bias, norm.bias_gradient)]
        return [parameter for parameter, _ in pairs], [gradient for _, gradient in pairs]

    # ---- shapes and buffers

    def _allocate(self, node: Node, masks: dict[str, Tensor], values: dict[str, Tensor], image: Shape) -> None:
        if isinstance(node, Convolution):
            w = Weights(node, masks[node.name], values[node.name], self.results[node.source], self.number.lanes)
            self.weights[node], self.shapes[node] = w, w.shape
            self.results[node] = self._buffer(w.shape, slotted=not self._stays(node))
            if self.trains:
                slotted = node is not self.graph.output
                self.gradients[node] = self._buffer(w.shape, slotted=slotted, **w.spread())
                gradient = self.gradients[node]
                self.turned[node] = w.kept.transposed(gradient.rows, gradient.columns, self.number.lanes)
            return
        if isinstance(node, FusedStep):
            before = self.shapes[node.source]
            node_window = node.window or (before.height, before.width)
            shape = Shape(before.channels, before.height // node_window[0], before.width // node_window[1])
            self.norms[node] = Normalisation(node.norm, shape.channels, self.blocks, self.number.real)
        else:
            shape = image
        self.shapes[node] = shape
        borders = [user.padding for user in node.users if isinstance(user, Convolution)]
        border = (max([0, *(b[0] for b in borders)]), max([0, *(b[1] for b in borders)]))
        self.results[node] = self._buffer(shape, border=border, slotted=not self._stays(node))
        if self.trains:
            self.gradients[node] = self._buffer(shape)
        if isinstance(node, FusedStep) and self._comes_with_its_source(node):
            self.results[node.source] = self.results[node]

    def _comes_with_its_source(self, step: FusedStep) -> bool:
        """Whether the convolution that it reads writes its result at once: there is nothing but a ReLU to be done."""
        alone = not (self.trains or step.norm or step.residual or step.pool)
        return alone and isinstance(step.source, Convolution)

    def _stays(self, node: Node) -> bool:
        """Whether every block of a result is kept: for the backward pass, or because it comes in or goes out."""
        if isinstance(node, Image) or node is self.graph.output:
            return True
        return self.trains and (node.stays if isinstance(node, FusedStep) else True)

    def _buffer(self, shape: Shape, slotted: bool = False, **layout: Any) -> Buffer:
        return Buffer(shape, self.slots if slotted else self.blocks, self.number.stored, slotted=slotted, **layout)

    # ---- operations

    def _op(self, kind: int, channels: int, **fields: Any) -> Op:
        """Tensors become pointers, and are kept alive."""
        self.alive += [value for value in fields.values() if isinstance(value, Tensor)]
        plain = {
            name: pointer(value) if isinstance(value, Tensor) else value.struct if isinstance(value, Buffer) else value
            for name, value in fields.items()
            if value is not None
        }
        return Op(kind=kind, channels=channels, **plain)

    def _forward_ops(self) -> list[Op]:
        ops: list[Op] = [] if self.trains else [self._reduction(abi.EVALUATION, node) for node in self._normalised()]
        for node in self.graph.nodes:
            if isinstance(node, Convolution):
                ops += [*self._anew(node.source), self._convolution(node)]
            elif isinstance(node, FusedStep):
                if node.norm is not None and self.trains:
                    ops.append(self._reduction(abi.STATISTICS, node))
                if node.stays and not self._comes_with_its_source(node):
                    ops.append(self._step(abi.ACTIVATE, node))
            if self.trains:
                ops += [self._step(abi.MOMENTS, user) for user in self._normalised() if user.source is node]
        return ops

    def _backward_ops(self) -> list[Op]:
        ops = [
            self._op(abi.GATHER, 0, count=len(w.values), weight=w.values, result=w.turned, order=self.turned[node][1])
            for node, w in self.weights.items()
            if self._wants(node.source)
        ]
        last = self.graph.output
        if isinstance(last, Convolution):
            ops += self._convolution_gradients(last)
        for node in reversed(self.graph.nodes):
            if not isinstance(node, FusedStep):
                continue
            if node.norm is not None:
                ops += [self._step(abi.ACTIVATION_SUMS, node), self._reduction(abi.NORM_GRADIENT, node)]
            if isinstance(node.source, Convolution) or self._wants(node.source):
                ops.append(self._step(abi.ACTIVATION_GRADIENT, node, **self._targets(node)))
            if isinstance(node.source, Convolution):
                ops += self._convolution_gradients(node.source)
        return ops + self.sums

    def _normalised(self) -> list[FusedStep]:
        return [node for node in self.graph.nodes if isinstance(node, FusedStep) and node.norm is not None]

    def _wants(self, node: Node) -> bool:
        """Whether the gradient of a result is needed."""
        return self.wants_image or not isinstance(node, Image)

    def _adds(self, node: Node) -> int:
        """Whether a gradient has been written before, so that more is added."""
        before = node in self.written
        self.written.add(node)
        return int(before)

    def _anew(self, node: Node) -> list[Op]:
        """A step that only one convolution reads is computed when it is read, into scratch."""
        if not isinstance(node, FusedStep) or node.stays or self._comes_with_its_source(node):
            return []
        return [self._step(abi.ACTIVATE, node)]

    def _step(self, kind: int, node: FusedStep, **targets: Any) -> Op:
        before = self.shapes[node.source]
        window = node.window or (before.height, before.width)
        fields = {"output": self.results[node], "adds_residual": -1} | targets
        return self._op(
            kind, before.channels, input=self.results[node.source], **fields,
            gradient=self.gradients.get(node), residual=self.results[node.residual] if node.residual else None,
            has_residual=int(node.residual is not None), relu=int(node.relu), average=int(node.pool == "average"),
            pool_height=window[0], pool_width=window[1], norm=self.norms[node].struct(), stride=1,
        )  # fmt: skip

    def _targets(self, node: FusedStep) -> dict[str, Any]:
        """Where the gradients of a step go."""
        onto_convolution = isinstance(node.source, Convolution)
        targets: dict[str, Any] = {
            "output": self.gradients[node.source],
            "adds": 0 if onto_convolution else self._adds(node.source),
        }
        if node.residual is not None and self._wants(node.residual):
            targets |= {
                "residual_gradient": self.gradients[node.residual], "adds_residual": self._adds(node.residual),
            }  # fmt: skip
        return targets

    def _reduction(self, kind: int, node: FusedStep) -> Op:
        channels = self.shapes[node.source].channels
        return self._op(kind, channels, count=channels, input=self.results[node.source], norm=self.norms[node].struct())

    def _convolution(self, node: Convolution) -> Op:
        w, source = self.weights[node], self.results[node.source]
        written = [user for user in node.users if isinstance(user, FusedStep) and self._comes_with_its_source(user)]
        return self._op(
            abi.CONVOLVE, w.shape.channels, input=source, output=self.results[node], rows=w.rows.starts,
            offsets=w.rows.offsets, weight=w.values, bias=w.bias, stride=w.stride, shift=w.shift(source),
            relu=int(any(step.relu for step in written)), full=w.full,
        )  # fmt: skip

    def _convolution_gradients(self, node: Convolution) -> list[Op]:
        w, source, gradient = self.weights[node], self.results[node.source], self.gradients[node]
        channels = w.shape.channels
        ops = [
            *self._anew(node.source),
            self._op(
                abi.WEIGHT_GRADIENT, channels, input=source, gradient=gradient, rows=w.rows.starts,
                offsets=w.rows.offsets, result=self._partial(w.gradient), count=len(w.values), stride=w.stride,
                shift=w.shift(source), full=w.full,
            ),
        ]  # fmt: skip
        if w.bias is not None:
            partial = self._partial(w.bias_gradient)
            ops.append(self._op(abi.BIAS_GRADIENT, channels, gradient=gradient, result=partial, count=channels))
        if self._wants(node.source):
            turned, _ = self.turned[node]
            ops.append(
                self._op(
                    abi.CONVOLVE, w.source.channels, input=gradient, output=self.gradients[node.source],
                    rows=turned.starts, offsets=turned.offsets, weight=w.turned, stride=1,
                    shift=w.shift_back(gradient), adds=self._adds(node.source), full=w.full,
                )
            )  # fmt: skip
        return ops

    def _partial(self, gradient: Tensor) -> Tensor:
        """Room for each block's part of `gradient`."""
        parts = gradient.new_zeros(self.blocks, len(gradient))
        self.sums.append(self._op(abi.SUM_BLOCKS, 0, count=len(gradient), weight=parts, result=gradient))
        return parts
