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
        assert sizes == (ctypes.sizeof(Op), precision.images_per_block), "abi.py differs from kernels.cpp"
        self.workspace = workspace
        pairs = workspace.parameter_gradients()
        self.parameters, self.parameter_gradients = [p for p, _ in pairs], [gradient for _, gradient in pairs]
        operations = OperationBuilder(workspace)
        self.runs = 0
        self._forward = _packed(operations.forward())
        self._backward = _packed(operations.backward() if workspace.training else [])
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

    def _run(self, ops: ctypes.Array[Op], entering: Tensor, leaving: Tensor | None) -> None:
        """Run operations on a batch that enters in the first ENTER, and leaves in the LEAVE if there is one."""
        for op in ops:
            if op.kind == abi.ENTER:
                op.batch = pointer(entering)
            elif op.kind == abi.LEAVE:
                op.batch = pointer(leaving)
        workspace = self.workspace
        self.kernels.run(ctypes.byref(ops), len(ops), len(entering), workspace.abreast, workspace.threads)


def _packed(ops: list[Op]) -> ctypes.Array[Op]:
    """Copy operations into one array, as the kernels read them."""
    return (Op * len(ops))(*ops)
