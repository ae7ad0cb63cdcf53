"""Scheduling of a program: the operations of the forward and the backward pass of a fused graph, in order."""

from __future__ import annotations

import itertools
from typing import Any

from torch import Tensor

from ersparse.kernels import abi
from ersparse.kernels.abi import Op, pointer
from ersparse.kernels.activations import code_of
from ersparse.kernels.buffers import ActivationBuffer
from ersparse.kernels.csr import CSRPattern
from ersparse.kernels.input_blocks import InputBlocks, window_bytes
from ersparse.kernels.nodes import Concatenation, Convolution, DropoutMask, FusedStep, Node, Product
from ersparse.kernels.pooling import windows_of
from ersparse.kernels.shapes import ImageShape
from ersparse.kernels.workspace import Workspace


class OperationBuilder:
    """Builds the operations of a network over the buffers of a workspace.

    Attributes:
        dropout: the dropout masks that enter in the forward pass, by the index of their operation.
        alive: the tensors that operations point to; whoever runs the operations keeps them alive.
    """

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self.graph, self.activations, self.gradients = workspace.graph, workspace.activations, workspace.gradients
        self.alive: list[Tensor] = []
        self.dropout: dict[int, DropoutMask] = {}
        self._written: set[Node] = set()  # nodes whose gradient a preceding operation has written
        self._block_sums: list[Op] = []

    def forward(self) -> list[Op]:
        """Return the operations of the forward pass."""
        training = self.workspace.training
        ops = [self._transfer(abi.ENTER, self.activations[self.workspace.input])]
        if not training:
            ops += [self._reduce(abi.EVALUATION, step) for step in self._normalised_steps()]
        for node in self.graph.nodes:
            if isinstance(node, Convolution):
                ops += [*self._recompute(node.source), self._convolve(node)]
            elif isinstance(node, FusedStep):
                if node.norm is not None and training:
                    ops.append(self._reduce(abi.STATISTICS, node))
                if node.materialized and not self.workspace.is_convolution_epilogue(node):
                    ops.append(self._step(abi.ACTIVATE, node))
            elif isinstance(node, DropoutMask):
                ops.append(self._transfer(abi.ENTER, self.activations[node]))
                self.dropout[len(ops) - 1] = node
            elif isinstance(node, Product):
                ops.append(self._product(abi.PRODUCT, node, output=self.activations[node]))
            elif isinstance(node, Concatenation):
                ops += [self._part(abi.ACTIVATE, node, *part) for part in self._parts(node)]
            if training:
                ops += [self._step(abi.MOMENTS, step) for step in self._normalised_steps() if step.source is node]
        return [*ops, self._transfer(abi.LEAVE, self.activations[self.graph.output])]

    def backward(self) -> list[Op]:
        """Return the operations of the backward pass; sums over blocks come last."""
        workspace = self.workspace
        ops = [
            self._op(
                abi.GATHER, 0, count=len(w.values), weight=w.values, result=w.transposed_values,
                order=workspace.transposed[node][1],
            )
            for node, w in workspace.weights.items()
            if workspace.needs_gradient(node.source)
        ]  # fmt: skip
        ops.append(self._transfer(abi.ENTER, self.gradients[self.graph.output]))
        if isinstance(self.graph.output, Convolution):
            ops += self._convolution_gradients(self.graph.output)
        for node in reversed(self.graph.nodes):
            if isinstance(node, FusedStep):
                ops += self._step_gradients(node)
            elif isinstance(node, Product):
                ops.append(self._product(abi.PRODUCT_GRADIENT, node, **self._product_targets(node)))
            elif isinstance(node, Concatenation):
                ops += self._concatenation_gradients(node)
        if workspace.needs_input_gradient:
            ops.append(self._transfer(abi.LEAVE, self.gradients[workspace.input]))
        return ops + self._block_sums

    def _transfer(self, kind: int, buffer: ActivationBuffer) -> Op:
        """Copy a batch into a buffer (ENTER) or out of it (LEAVE); the program fills in the address of the batch."""
        shape = buffer.shape
        side = {"output" if kind == abi.ENTER else "input": buffer}
        return self._op(kind, shape.channels, count=shape.height * shape.width, abreast=buffer.abreast, **side)

    def _normalised_steps(self) -> list[FusedStep]:
        return [node for node in self.graph.nodes if isinstance(node, FusedStep) and node.norm is not None]

    def _recompute(self, node: Node) -> list[Op]:
        """Compute a step that is not stored, into scratch memory, before the convolution that reads it."""
        if not isinstance(node, FusedStep) or node.materialized or self.workspace.is_convolution_epilogue(node):
            return []
        return [self._step(abi.ACTIVATE, node)]

    def _convolve(self, node: Convolution) -> Op:
        w, source = self.workspace.weights[node], self.activations[node.source]
        return self._op(
            abi.CONVOLVE, w.output_shape.channels, input=source, output=self.activations[node],
            **self._pattern(w.pattern, w.input_shape.channels, w.output_shape, w.kernel, w.stride),
            weight=w.values, bias=w.bias, shift=w.forward_shift(source), **self._epilogue(node),
        )  # fmt: skip

    def _epilogue(self, node: Convolution) -> dict[str, Any]:
        """Return the operands of what a convolution computes besides: the step that reads its result, if it can."""
        step = node.users[0] if node.users else None
        if not isinstance(step, FusedStep) or not self.workspace.is_convolution_epilogue(step):
            return {}
        fields: dict[str, Any] = {"activation": code_of(step.activation)}
        if step.residual:
            fields |= {"residual": self.activations[step.residual], "has_residual": 1}
        if step.pool:
            fields["pool_rows"], fields["pool_columns"] = windows_of(step.pool, *self.workspace.shapes[node][1:])
        return fields

    def _step_gradients(self, node: FusedStep) -> list[Op]:
        ops: list[Op] = []
        if node.norm is not None:
            ops += [self._step(abi.ACTIVATION_SUMS, node), self._reduce(abi.NORM_GRADIENT, node)]
        if any(isinstance(n, Convolution) or self.workspace.needs_gradient(n) for n in node.operands):
            ops.append(self._step(abi.ACTIVATION_GRADIENT, node, **self._gradient_targets(node)))
        if isinstance(node.source, Convolution):
            ops += self._convolution_gradients(node.source)
        return ops

    def _convolution_gradients(self, node: Convolution) -> list[Op]:
        """Compute the gradients of weights, bias and input, in this order."""
        w, source, gradient = self.workspace.weights[node], self.activations[node.source], self.gradients[node]
        channels = w.output_shape.channels
        ops = [
            *self._recompute(node.source),
            self._op(
                abi.WEIGHT_GRADIENT, channels, input=source, gradient=gradient, rows=w.pattern.row_pointers,
                offsets=w.pattern.offsets, result=self._per_block(w.gradient), count=len(w.values),
                row_stride=w.stride[0], stride=w.stride[1], shift=w.forward_shift(source), full=w.is_dense,
            ),
        ]  # fmt: skip
        if w.bias is not None:
            partial = self._per_block(w.bias_gradient)
            ops.append(self._op(abi.BIAS_GRADIENT, channels, gradient=gradient, result=partial, count=channels))
        if self.workspace.needs_gradient(node.source):
            ops.append(self._input_gradient(node))
        return ops

    def _input_gradient(self, node: Convolution) -> Op:
        w, gradient = self.workspace.weights[node], self.gradients[node]
        pattern, _ = self.workspace.transposed[node]
        return self._op(
            abi.CONVOLVE, w.input_shape.channels, input=gradient, output=self.gradients[node.source],
            **self._pattern(pattern, w.output_shape.channels, w.input_shape, w.kernel),
            weight=w.transposed_values, shift=w.backward_shift(gradient), adds=self._accumulates(node.source),
        )  # fmt: skip

    def _pattern(
        self,
        pattern: CSRPattern,
        n_in: int,
        output: ImageShape,
        kernel: tuple[int, int],
        stride: tuple[int, int] = (1, 1),
    ) -> dict[str, Any]:
        """Return the operands of a convolution that say which weights it keeps, in blocks of input channels."""
        precision = self.workspace.precision
        size = output.height, output.width * self.workspace.abreast
        window = window_bytes(size, kernel, stride, precision.vectors, precision.bytes_per_pixel)
        blocks = InputBlocks.of(pattern, n_in, window)
        return {
            "offsets": pattern.offsets, "segments": blocks.segments, "input_blocks": blocks.count,
            "row_stride": stride[0], "stride": stride[1],
        }  # fmt: skip

    def _gradient_targets(self, node: FusedStep) -> dict[str, Any]:
        """Return the operands that receive the gradients of a step's source and residual."""
        adds = 0 if isinstance(node.source, Convolution) else self._accumulates(node.source)
        targets: dict[str, Any] = {"output": self.gradients[node.source], "adds": adds}
        if node.residual is not None and self.workspace.needs_gradient(node.residual):
            targets["residual_gradient"] = self.gradients[node.residual]
            targets["adds_residual"] = self._accumulates(node.residual)
        return targets

    def _product(self, kind: int, node: Product, **targets: Any) -> Op:
        """Build a product, or its gradients; the operand that may have one number a channel is the residual."""
        large, small = self._by_size(node)
        fields = {"adds_residual": -1} | targets
        return self._op(
            kind, self.workspace.shapes[node].channels, input=self.activations[large],
            residual=self.activations[small], gradient=self.gradients.get(node), **fields,
        )  # fmt: skip

    def _by_size(self, node: Product) -> tuple[Node, Node]:
        """Return the operand that has the shape of the product, and the other one."""
        same = self.workspace.shapes[node.source] == self.workspace.shapes[node]
        return (node.source, node.factor) if same else (node.factor, node.source)

    def _product_targets(self, node: Product) -> dict[str, Any]:
        """Return the operands that receive the gradients of a product's factors, if they need one."""
        targets: dict[str, Any] = {}
        for operand, name, adds in zip(
            self._by_size(node), ("output", "residual_gradient"), ("adds", "adds_residual"), strict=True
        ):
            if self.workspace.needs_gradient(operand):
                targets |= {name: self.gradients[operand], adds: self._accumulates(operand)}
        return targets

    def _parts(self, node: Concatenation) -> list[tuple[Node, int]]:
        """Return the tensors that are concatenated, with the first channel of each."""
        channels = [self.workspace.shapes[source].channels for source in node.sources]
        return list(zip(node.sources, itertools.accumulate(channels, initial=0), strict=False))

    def _part(self, kind: int, node: Concatenation, source: Node, begin: int, **targets: Any) -> Op:
        """Copy a tensor into its channels of a concatenation, or the gradient of these channels out of them."""
        shape = self.workspace.shapes[source]
        rows, columns = windows_of(None, shape.height, shape.width)
        gradient = self.gradients.get(node)
        fields = {"output": self.activations[node].from_channel(begin), "adds_residual": -1} | targets
        return self._op(
            kind, shape.channels, input=self.activations[source], gradient=gradient and gradient.from_channel(begin),
            pool_rows=rows, pool_columns=columns, norm=self.workspace.norms[node].struct(), **fields,
        )  # fmt: skip

    def _concatenation_gradients(self, node: Concatenation) -> list[Op]:
        return [
            self._part(
                abi.ACTIVATION_GRADIENT, node, source, begin, output=self.gradients[source],
                adds=self._accumulates(source),
            )
            for source, begin in self._parts(node)
            if self.workspace.needs_gradient(source)
        ]  # fmt: skip

    def _accumulates(self, node: Node) -> int:
        """Return whether an operation adds to the gradient of `node`, since it is not the first one to write it."""
        before = node in self._written
        self._written.add(node)
        return int(before)

    def _per_block(self, gradient: Tensor) -> Tensor:
        """Allocate one part of `gradient` for each block, and schedule the sum of the parts."""
        parts = gradient.new_zeros(self.workspace.blocks, len(gradient))
        self._block_sums.append(self._op(abi.SUM_BLOCKS, 0, count=len(gradient), weight=parts, result=gradient))
        return parts

    def _step(self, kind: int, node: FusedStep, **targets: Any) -> Op:
        source = self.workspace.shapes[node.source]
        rows, columns = windows_of(node.pool, source.height, source.width)
        fields = {"output": self.activations[node], "adds_residual": -1} | targets
        return self._op(
            kind, source.channels, input=self.activations[node.source], **fields,
            gradient=self.gradients.get(node), residual=self.activations[node.residual] if node.residual else None,
            has_residual=int(node.residual is not None), activation=code_of(node.activation),
            slope=node.activation and node.activation.slope, average=int(node.pool is not None and node.pool.averages),
            pool_rows=rows, pool_columns=columns, norm=self.workspace.norms[node].struct(),
        )  # fmt: skip

    def _reduce(self, kind: int, node: FusedStep) -> Op:
        """Build a reduction over all blocks of the source of a normalised step."""
        channels, norm = self.workspace.shapes[node.source].channels, self.workspace.norms[node]
        return self._op(kind, channels, count=channels, input=self.activations[node.source], norm=norm.struct())

    def _op(self, kind: int, channels: int, **fields: Any) -> Op:
        """Build an operation: tensors become pointers and are kept alive, buffers become structs, None is left out."""
        self.alive += [value for value in fields.values() if isinstance(value, Tensor)]
        operands = {name: _operand(value) for name, value in fields.items() if value is not None}
        return Op(kind=kind, channels=channels, **operands)


def _operand(value: Any) -> Any:
    if isinstance(value, Tensor):
        return pointer(value)
    return value.struct if isinstance(value, ActivationBuffer) else value
