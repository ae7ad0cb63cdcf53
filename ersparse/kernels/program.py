"""Execution of a network by the kernels: two lists of operations over buffers that are allocated once."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from ersparse.kernels import abi
from ersparse.kernels.abi import Op, pointer
from ersparse.kernels.compile import library
from ersparse.kernels.operations import OperationBuilder
from ersparse.kernels.workspace import Workspace

C_TYPES = {torch.float32: "float", torch.float64: "double", torch.bfloat16: "bfloat16"}


class Program:
    """Forward and backward pass of a network on batches of up to `workspace.max_images` images.

    Attributes:
        runs: number of forward passes so far.
        parameters: tensors whose gradients the backward pass computes.
        parameter_gradients: the gradients, in the same order, overwritten by every backward pass.

    Raises:
        KernelsUnavailable: the kernels cannot be compiled.
    """

    def __init__(self, workspace: Workspace) -> None:
        precision = workspace.precision
        self.kernels = library(C_TYPES[precision.compute_dtype], C_TYPES[precision.storage_dtype])
        sizes = self.kernels.size_of_op(), self.kernels.lanes()
        assert sizes == (ctypes.sizeof(Op), precision.images_per_block), "abi.py differs from operation.h"
        self.workspace = workspace
        pairs = workspace.parameter_gradients()
        self.parameters, self.parameter_gradients = [p for p, _ in pairs], [gradient for _, gradient in pairs]
        operations = OperationBuilder(workspace)
        self.runs = 0
        self._forward = OperationList(operations.forward())
        self._backward = OperationList(operations.backward() if workspace.training else [])
        self._alive = operations.alive

    def forward(self, x: Tensor) -> Tensor:
        """Compute the output [B, ...] of a batch [B, C, H, W], with B at most `max_images`."""
        workspace = self.workspace
        self.runs += 1
        shape = workspace.shapes[workspace.graph.output]
        y = torch.empty(len(x), *shape, dtype=workspace.precision.compute_dtype)
        self._run(self._forward, self._batch(x), y)
        return y.flatten(1) if workspace.graph.output_is_flat else y

    def backward(self, gradient: Tensor) -> Tensor | None:
        """Compute `parameter_gradients` for the batch of the last forward pass.

        Args:
            gradient: the gradient of the output, [B, ...].

        Returns:
            The gradient of the images [B, C, H, W] if the workspace needs it.
        """
        workspace = self.workspace
        shape, dtype = workspace.image_shape, workspace.precision.compute_dtype
        result = torch.empty(len(gradient), *shape, dtype=dtype) if workspace.needs_input_gradient else None
        self._run(self._backward, self._batch(gradient), result)
        return result

    def _batch(self, x: Tensor) -> Tensor:
        return x.detach().to(self.workspace.precision.compute_dtype).contiguous()

    def _run(self, operations: OperationList, entering: Tensor, leaving: Tensor | None) -> None:
        """Run operations on a batch that enters, and write what leaves into `leaving`, if anything does."""
        operations.connect(entering, leaving)
        packed, workspace = operations.packed, self.workspace
        self.kernels.run(ctypes.byref(packed), len(packed), len(entering), workspace.abreast, workspace.threads)


class OperationList:
    """Operations in one array, as the kernels read them."""

    def __init__(self, ops: list[Op]) -> None:
        self.packed = (Op * len(ops))(*ops)
        self._transfers = [op for op in self.packed if op.kind in (abi.ENTER, abi.LEAVE)]

    def connect(self, entering: Tensor, leaving: Tensor | None) -> None:
        """Set the addresses of the batches that enter and leave; the caller keeps them alive."""
        for op in self._transfers:
            op.batch = pointer(entering if op.kind == abi.ENTER else leaving)
