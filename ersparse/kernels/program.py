"""Execution of a network by the kernels: two lists of operations over buffers that are allocated once."""

from __future__ import annotations

import ctypes
from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from ersparse.kernels import abi
from ersparse.kernels.abi import Op, pointer
from ersparse.kernels.compile import library
from ersparse.kernels.nodes import DropoutMask
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
        self._forward = OperationList(operations.forward(), operations.dropout)
        self._backward = OperationList(operations.backward() if workspace.training else [], {})
        self._dropout = operations.dropout
        self._alive = operations.alive

    def forward(self, x: Tensor) -> Tensor:
        """Compute the output [B, ...] of a batch [B, C, H, W], [B, C, L] or [B, F], with B at most `max_images`."""
        workspace = self.workspace
        self.runs += 1
        shape = workspace.shapes[workspace.graph.output]
        y = torch.empty(len(x), *shape, dtype=workspace.precision.compute_dtype)
        masks = {index: self._draw(node, len(x)) for index, node in self._dropout.items()}
        self._forward.connect_dropout(masks)
        self._run(self._forward, self._batch(x), y)
        if workspace.graph.output_is_flat or x.dim() == 2:
            return y.flatten(1)
        return y.squeeze(2) if x.dim() == 3 else y

    def _draw(self, node: DropoutMask, images: int) -> Tensor:
        """Draw the factors of dropout [B, C, H, W] from PyTorch's generator, as its dropout does on the CPU."""
        factors = torch.empty(images, *self.workspace.shapes[node], dtype=self.workspace.precision.compute_dtype)
        return factors.bernoulli_(1 - node.p).div_(1 - node.p) if node.p < 1 else factors.zero_()

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
    """Operations in one array, as the kernels read them.

    Args:
        ops: the operations.
        dropout: indices of those by which dropout masks enter.
    """

    def __init__(self, ops: list[Op], dropout: Collection[int]) -> None:
        self.packed = (Op * len(ops))(*ops)
        transfers = enumerate(self.packed)
        self._transfers = [op for i, op in transfers if op.kind in (abi.ENTER, abi.LEAVE) and i not in dropout]

    def connect_dropout(self, masks: Mapping[int, Tensor]) -> None:
        """Set the addresses of dropout masks, by the index of the operation; the caller keeps them alive."""
        for index, mask in masks.items():
            self.packed[index].batch = pointer(mask)

    def connect(self, entering: Tensor, leaving: Tensor | None) -> None:
        """Set the addresses of the batches that enter and leave; the caller keeps them alive."""
        for op in self._transfers:
            op.batch = pointer(entering if op.kind == abi.ENTER else leaving)
