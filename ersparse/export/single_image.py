"""Sparse inference on single images, with vectors over the pixels of one image.

The training layout puts sixteen images side by side and would be mostly empty for a small batch. Here the pixels of a
channel, its border included, are contiguous, so that a kept weight still multiplies contiguous vectors. Vectors run
past the ends of rows into the border; what they compute there is never read. One kernel call computes all layers.
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor

from ersparse.export.folded import FoldedLayer, FoldedNetwork, FoldedStep
from ersparse.kernels import abi
from ersparse.kernels.abi import Op, TensorStruct, pointer
from ersparse.kernels.activations import code_of
from ersparse.kernels.buffers import VECTOR_SIZE
from ersparse.kernels.compile import library
from ersparse.kernels.csr import MaskCoordinates
from ersparse.kernels.input_blocks import InputBlocks
from ersparse.kernels.pooling import windows_of
from ersparse.kernels.shapes import ImageShape
from ersparse.sparse.layers import prunable_weights
from ersparse.sparse.mask import masks_of


class PlanarBuffer:
    """Memory for one image whose channels are contiguous planes, each with a border of zeros."""

    def __init__(self, shape: ImageShape, border: tuple[int, int]) -> None:
        channels, height, width = shape
        self.shape, self.border = shape, border
        self.rows, self.columns = height + 2 * border[0], width + 2 * border[1]
        size = self.rows * self.columns
        self.data = torch.zeros(channels * size + VECTOR_SIZE)  # the last vector may extend past the last plane
        self.struct = TensorStruct(
            data=pointer(self.data), block_size=size, columns=self.columns, height=height, width=width,
            origin=border[0] * self.columns + border[1], row_step=1, step=1,
        )  # fmt: skip

    def from_channel(self, begin: int) -> TensorStruct:
        """Return the struct of the channels from `begin` on."""
        struct = TensorStruct.from_buffer_copy(self.struct)
        struct.data = pointer(self.data[begin * struct.block_size :])
        return struct

    @property
    def interior(self) -> Tensor:
        """A view of the pixels inside the border, [channels, height, width]."""
        channels, height, width = self.shape
        planes = self.data[:-VECTOR_SIZE].view(channels, self.rows, self.columns)
        return planes[:, self.border[0] :, self.border[1] :][:, :height, :width]


class SingleImageConvolution:
    """A layer on one image; it is computed with stride 1, and the step that follows reads every stride-th pixel.

    Attributes:
        shape: the shape of the output.
        op: the operation.
        struct: the output as the input of the step that follows.
    """

    def __init__(
        self, layer: FoldedLayer, weight: Tensor, bias: Tensor, mask: Tensor, source: PlanarBuffer, activation: int
    ) -> None:
        (tall, wide), (down, across) = layer.shape[2:] or source.shape[1:], layer.dilation
        coordinates = MaskCoordinates.from_mask(mask.reshape(len(mask), -1, tall, wide), layer.groups, (down, across))
        kernel, columns = coordinates.shape[2:], source.columns
        paddings = layer.padding, layer.end_padding or layer.padding
        height, width = (n + p + e - k + 1 for n, p, e, k in zip(source.shape[1:], *paddings, kernel, strict=True))
        pattern = coordinates.forward_pattern(source.rows, columns)
        vectors = -(-((height - 1) * columns + width) // VECTOR_SIZE)
        self.shape = ImageShape(len(mask), -(-height // layer.stride[0]), -(-width // layer.stride[1]))
        output = torch.empty(len(mask), vectors * VECTOR_SIZE)
        self.struct = TensorStruct(
            data=pointer(output), block_size=vectors * VECTOR_SIZE, columns=columns, height=self.shape.height,
            width=self.shape.width, row_step=layer.stride[0], step=layer.stride[1],
        )  # fmt: skip
        top, left = (b - p for b, p in zip(source.border, layer.padding, strict=True))
        inputs = source.data[top * columns + left :]
        plane_bytes = source.rows * columns * inputs.element_size()  # a tile covers all of it, or nearly
        blocks = InputBlocks.of(pattern, source.shape.channels, plane_bytes)
        # the operation points to these tensors
        self._alive = blocks.segments, pattern.offsets, weight[mask], bias, inputs, output
        segments, offsets, values, biases, *_ = map(pointer, self._alive)
        self.op = Op(
            kind=abi.CONVOLVE, channels=len(mask), segments=segments, input_blocks=blocks.count, offsets=offsets,
            weight=values, bias=biases, row_stride=1, stride=1, activation=activation,
            input=TensorStruct(data=pointer(inputs), rows=1, columns=vectors),
            output=TensorStruct(data=pointer(output), height=1, width=vectors, rows=1, columns=vectors),
        )  # fmt: skip


class SingleImageNetwork:
    """Computes a folded network with masks attached on one image at a time.

    Args:
        network: the folded network.
        channels: the channels of the image.
        side: height and width of the image in pixels.

    Raises:
        KernelsUnavailable: the kernels cannot be compiled.
    """

    def __init__(self, network: FoldedNetwork, channels: int, side: int) -> None:
        self._run = library("float", "float").run
        masks, weighted = masks_of(network), iter(prunable_weights(network).items())
        borders = network.borders()
        self._results = [PlanarBuffer(ImageShape(channels, side, side), borders[0])]
        self._convolutions: list[SingleImageConvolution] = []
        ops = []
        for step, border in zip(network.steps, borders[1:], strict=True):
            source = self._results[step.source]
            struct, shape = source.struct, source.shape
            if step.layer:
                name, held = next(weighted)
                fused = step.activation if step.residual is None else None
                code = code_of(fused) if fused and fused.clamps else 0
                assert isinstance(held.module.bias, Tensor)
                parameters = held.weight, held.module.bias
                convolution = SingleImageConvolution(step.layer, *parameters, masks[name], source, code)
                ops.append(convolution.op)
                struct, shape = convolution.struct, convolution.shape
                self._convolutions.append(convolution)
            shape = self._result_shape(step, shape)
            result = PlanarBuffer(shape, border)
            ops += self._epilogue(step, struct, result)
            self._results.append(result)
        self._ops = (Op * len(ops))(*ops)

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        """Compute the output [B, ...] of normalised images [B, channels, side, side]."""
        return torch.stack([self._forward(image) for image in x])

    def _result_shape(self, step: FoldedStep, source: ImageShape) -> ImageShape:
        """Return the shape of a step's result, given that of its layer's output or of its source."""
        if step.factor is not None:
            return max(source, self._results[step.factor].shape)  # the one that is not a single pixel
        if step.more:
            return source._replace(channels=sum(self._results[n].shape.channels for n in step.sources))
        return ImageShape(source.channels, *step.pool.output_size(*source[1:])) if step.pool else source

    def _epilogue(self, step: FoldedStep, source: TensorStruct, result: PlanarBuffer) -> list[Op]:
        """Build the operations that compute pool(activation(source + residual)), a product or a concatenation."""
        if step.more:
            parts, begin = [], 0
            for part in (self._results[number] for number in step.sources):
                parts.append(_planes(FoldedStep(0), part.struct, result.from_channel(begin), part.shape.channels))
                begin += part.shape.channels
            return parts
        if step.factor is not None:
            factors = sorted((self._results[n] for n in (step.source, step.factor)), key=lambda r: r.shape)
            small, large = (factor.struct for factor in factors)
            return [_planes(step, large, result.struct, result.shape.channels, small)]
        residual = None if step.residual is None else self._results[step.residual].struct
        return [_planes(step, source, result.struct, result.shape.channels, residual)]

    def _forward(self, image: Tensor) -> Tensor:
        self._results[0].interior.copy_(image)
        self._run(ctypes.byref(self._ops), len(self._ops), 1, 1, torch.get_num_threads())
        return self._results[-1].interior.flatten().clone()


def _planes(
    step: FoldedStep, source: TensorStruct, target: TensorStruct, channels: int, other: TensorStruct | None = None
) -> Op:
    """Build the operation that computes pool(activation(source + other)) of `step`, or source * other."""
    rows, columns = windows_of(step.pool, source.height, source.width)
    optional: dict[str, Any] = {} if other is None else {"residual": other}
    return Op(
        kind=abi.PLANES, channels=channels, input=source, output=target, has_residual=len(optional),
        multiplies=int(step.factor is not None), activation=code_of(step.activation),
        slope=step.activation.slope if step.activation else 0.0,
        average=int(step.pool is not None and step.pool.averages), pool_rows=rows, pool_columns=columns, **optional,
    )  # fmt: skip
