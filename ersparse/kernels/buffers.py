"""Memory of a program: activations with zero borders, batch-normalisation vectors, and kept weights."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ersparse.kernels import abi
from ersparse.kernels.abi import TensorStruct, pointer
from ersparse.kernels.buffer_reuse import Scratch
from ersparse.kernels.csr import MaskCoordinates, dilated
from ersparse.kernels.nodes import Convolution
from ersparse.kernels.shapes import ImageShape

VECTOR_SIZE = 16  # elements per SIMD vector: HALF in vectors.h


@dataclass(frozen=True)
class Precision:
    """Data types of the kernels.

    Attributes:
        compute_dtype: the type of weights, sums and arithmetic: float32 or float64.
        storage_dtype: the type of activations and their gradients in memory: `compute_dtype`, or bfloat16.
    """

    compute_dtype: torch.dtype = torch.float32
    storage_dtype: torch.dtype = torch.float32

    @property
    def vectors(self) -> int:
        """Vectors of images that lie side by side in memory: one, or two in bfloat16."""
        return 2 if self.storage_dtype == torch.bfloat16 else 1

    @property
    def images_per_block(self) -> int:
        """Images that lie side by side in memory. LANES in vectors.h."""
        return self.vectors * VECTOR_SIZE

    @property
    def bytes_per_pixel(self) -> int:
        """Bytes of one pixel of all images that lie side by side in memory."""
        return self.images_per_block * self.storage_dtype.itemsize


class ActivationBuffer:
    """An activation or its gradient, [blocks, channels, rows, columns, images per block], with a border of zeros.

    In bfloat16 the images of a block alternate: 0, 16, 1, 17, ..., 15, 31, so that a 32-bit word holds one element of
    each of the block's two vectors.

    Args:
        shape: the shape of one image.
        blocks: number of blocks, of images or, for scratch memory, of threads.
        precision: gives the data type and the images per block.
        border: rows above and columns left of the first pixel.
        padded_size: rows and columns including the border; None for the same border on all sides.
        dilation: distance between adjacent rows and between adjacent pixels of a row in memory; more than 1 for the
            output gradient of a strided convolution, so that the input gradient is a convolution with stride 1.
        per_thread: scratch memory with one block for each thread.
        abreast: for an activation without pixels (height and width 1), the number of vectors of images that stand in a
            row in place of pixels, so that a kept weight multiplies more than one vector.
        memory: memory to use for a buffer without borders, [blocks, as many elements as a block has, or more]; None to
            allocate zeros.
        scratch: scratch memory to share with other buffers of the same layout, which are in use at other times.
    """

    def __init__(
        self,
        shape: ImageShape,
        blocks: int,
        precision: Precision,
        border: tuple[int, int] = (0, 0),
        padded_size: tuple[int, int] | None = None,
        dilation: tuple[int, int] = (1, 1),
        per_thread: bool = False,
        abreast: int = 1,
        memory: Tensor | None = None,
        scratch: Scratch | None = None,
    ) -> None:
        self.shape, self.abreast = shape, abreast
        self.rows, self.columns = padded_size or (shape.height + 2 * border[0], shape.width + 2 * border[1])
        self.columns *= abreast
        size = (blocks, shape.channels, self.rows, self.columns, precision.images_per_block)
        dtype = precision.storage_dtype
        if memory is not None:
            self.data = memory[:, : math.prod(size[1:])].view(size)
        elif scratch is not None:
            self.data = scratch.get((shape, border, dilation), size, dtype)
        else:
            self.data = torch.zeros(size, dtype=dtype)
        self.struct = TensorStruct(
            pointer(self.data), self.data.stride(0), int(per_thread), shape.height,
            shape.width * abreast, self.rows, self.columns, border[0] * self.columns + border[1], *dilation,
        )  # fmt: skip

    def from_channel(self, begin: int) -> TensorStruct:
        """Return the struct of the channels from `begin` on."""
        struct = TensorStruct.from_buffer_copy(self.struct)
        struct.data = pointer(self.data[:, begin:])
        return struct


class BatchNormBuffers:
    """Per-channel vectors of a batch normalisation and their gradients; the identity for a step without one.

    A step computes alpha * x + beta. Attribute names are those of `NormStruct`.
    """

    def __init__(
        self, norm: nn.BatchNorm1d | nn.BatchNorm2d | None, channels: int, blocks: int, dtype: torch.dtype
    ) -> None:
        self.alpha, self.inverse_std = torch.ones(channels, dtype=dtype), torch.zeros(channels, dtype=dtype)
        self.beta, self.mean, self.mean_gradient, self.mean_product = torch.zeros(4, channels, dtype=dtype)
        self.weight_gradient, self.bias_gradient = torch.zeros(2, channels, dtype=dtype)
        self.partial = torch.zeros(blocks, channels, 2, dtype=torch.float64)
        self.module = norm

    def struct(self) -> abi.NormStruct:
        """Return the struct that the kernels read; this object has to outlive it."""
        fields: dict[str, Any] = {
            name: pointer(value) for name, value in vars(self).items() if isinstance(value, Tensor)
        }
        if self.module is not None:
            fields |= {
                name: pointer(getattr(self.module, name)) for name in ("weight", "bias", "running_mean", "running_var")
            }
            assert self.module.momentum is not None
            fields |= {"epsilon": self.module.eps, "momentum": self.module.momentum}
        return abi.NormStruct(**fields)


class SparseWeights:
    """The kept weights of one convolution: values, CSR pattern, and buffers for their gradients.

    Args:
        node: the convolution.
        mask: boolean, in the shape of the weight.
        values: the kept weights, in the order of `weight[mask]`.
        source: the activation that the convolution reads.
        output_shape: the shape of its result.
        images_per_block: as in `source`.
    """

    def __init__(
        self,
        node: Convolution,
        mask: Tensor,
        values: Tensor,
        source: ActivationBuffer,
        output_shape: ImageShape,
        images_per_block: int,
    ) -> None:
        self.input_shape, self.output_shape = source.shape, output_shape
        kernel = node.kernel or self.input_shape[1:]
        self.kernel, self.padding = dilated(kernel, node.dilation), node.padding
        self.stride, self.bias, self.values = node.stride, node.module.bias, values
        self.coordinates = MaskCoordinates.from_mask(mask.reshape(len(mask), -1, *kernel), node.groups, node.dilation)
        self.is_dense = int(node.groups == 1 and len(values) == mask.numel())
        self.pattern = self.coordinates.forward_pattern(source.rows, source.columns, images_per_block)
        self.gradient, self.transposed_values = torch.zeros_like(values), torch.empty_like(values)
        self.bias_gradient = values.new_zeros(len(mask))

    @property
    def gradient_padding(self) -> tuple[int, int]:
        """Padding of the convolution that computes the input gradient, in rows and columns; it may be negative."""
        return self.kernel[0] - 1 - self.padding[0], self.kernel[1] - 1 - self.padding[1]

    def gradient_layout(self) -> dict[str, Any]:
        """Return the layout of the output gradient for which the input gradient is a convolution with stride 1."""
        (top, left), output = self.gradient_padding, self.output_shape
        border = (max(0, top), max(0, left))
        rows = self.input_shape.height + self.kernel[0] - 1 + border[0] - top
        columns = self.input_shape.width + self.kernel[1] - 1 + border[1] - left
        padded_size = (
            max(rows, border[0] + (output.height - 1) * self.stride[0] + 1),
            max(columns, border[1] + (output.width - 1) * self.stride[1] + 1),
        )
        return {"border": border, "padded_size": padded_size, "dilation": self.stride}

    def forward_shift(self, source: ActivationBuffer) -> int:
        """Return the distance in pixels from the first pixel to the first one the kernel reads, in the border."""
        return -(self.padding[0] * source.columns + self.padding[1])

    def backward_shift(self, gradient: ActivationBuffer) -> int:
        """Return the same distance for the convolution that computes the input gradient from the output gradient."""
        return -(self.gradient_padding[0] * gradient.columns + self.gradient_padding[1])
