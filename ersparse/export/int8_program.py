"""The operations of a network in 8 bits.

A byte q of an activation stands for (q - zero) * scale; both numbers come from the range of the activation on sample
images. Sums of products are exact. They are rounded to bytes once, after bias and residual; numbers beyond the range
become its limits, one of which is 0 after a ReLU.
"""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ersparse.export.folded import FoldedNetwork
from ersparse.export.int8_operands import VECTOR, Border, ByteBuffer, ByteWeights
from ersparse.export.ranges import Range, Ranges
from ersparse.kernels import int8_abi as abi
from ersparse.kernels.abi import pointer
from ersparse.kernels.activations import Activation
from ersparse.kernels.int8_abi import ByteOp, ByteTensor
from ersparse.kernels.nodes import NotCovered
from ersparse.kernels.pooling import Pool, windows_of
from ersparse.kernels.shapes import ImageShape
from ersparse.sparse.layers import prunable_weights
from ersparse.sparse.mask import masks_of

NO_BORDER = (0, 0)


class Int8Program:
    """The operations of a network, and memory for `slots` blocks of images.

    Of 64 images, which stand side by side, a pixel is a vector. With 16 images or one, a vector has several pixels of a
    channel. Convolutions are then computed with stride 1 from the first pixel of a channel to the last one, through the
    border between its rows; all tensors have the same border, so that input, residual and result agree in it.

    Args:
        network: the folded network, with masks attached.
        image: the shape of an image.
        ranges: of all its tensors.
        images: that stand side by side: 64, 16 or 1.
        slots: blocks that are computed at a time: one, or one by each thread.

    Attributes:
        output_size: numbers that the network computes for an image.

    Raises:
        NotCovered: a layer is too large for 32-bit sums or offsets, or with fewer than 64 images a tensor is added to a
            convolution that changes the size of the image.
    """

    def __init__(self, network: FoldedNetwork, image: ImageShape, ranges: Ranges, images: int, slots: int) -> None:
        self.images, self.slots = images, slots
        self._steps, self._ranges, self._borders = network.steps, ranges, network.borders()
        self._by_pixel = images == VECTOR
        if not self._by_pixel:
            rows, columns = zip(*self._borders, strict=True)
            self._borders = [(max(rows), max(columns))] * len(self._borders)
        numbers = [number for number, step in enumerate(network.steps) if step.layer]
        self._weights = dict(zip(numbers, prunable_weights(network).items(), strict=True))
        self._masks = masks_of(network)
        self._free: dict[object, list[Tensor]] = defaultdict(list)
        self._alive: list[Tensor] = []  # the operations point to these
        self._ops: list[ByteOp] = []
        first = self._buffer(image, self._borders[0], ranges[0][0])
        self._results = [first]
        self._add(abi.ENTER, image, output=first, in_scale=1 / first.range.scale, in_bias=first.range.zero)
        last_reader = network.last_readers()
        for number, step in enumerate(network.steps[:-1]):
            self._results.append(self._step(number))
            for read in {n for n in step.operands if last_reader[n] == number + 1}:
                self._release(self._results[read])
        self.output_size = self._output(len(network.steps) - 1)
        self.packed = (ByteOp * len(self._ops))(*self._ops)

    def connect(self, images: Tensor, outputs: Tensor) -> None:
        """Set the addresses of a batch [B, C, H, W] and of its outputs; the caller keeps them alive."""
        self.packed[0].batch, self.packed[len(self.packed) - 1].batch = pointer(images), pointer(outputs)

    def _output(self, number: int) -> int:
        """Add the last step, which is not rounded to bytes if it is a layer, and return how many numbers it has."""
        step = self._steps[number]
        if step.layer and step.residual is None and len(self._ranges[number + 1]) == 1:
            weights, fields, bias = self._layer(number, 1.0)
            shape = weights.output_shape
            pixels = ByteTensor(height=shape.height, width=shape.width)
            self._add(abi.LOGITS, shape, input=self._results[step.source], output=pixels, bias=bias, **fields)
        else:
            y = self._step(number)
            shape, scale = y.shape, y.range.scale
            self._add(abi.LEAVE, shape, input=y, in_scale=scale, in_bias=-scale * y.range.zero)
        return math.prod(shape)

    def _step(self, number: int) -> ByteBuffer:
        """Add the operations of a step, and return its result."""
        step, (first, *after), border = self._steps[number], self._ranges[number + 1], self._borders[number + 1]
        source = self._results[step.source]
        if step.more:
            return self._concatenated([self._results[n] for n in step.sources], first, border)
        if step.factor is not None:
            return self._product(source, self._results[step.factor], first, border)
        parts = list(zip((part for part in (step.activation, step.pool) if part), after, strict=True))
        clamps = step.activation is not None and step.activation.clamps
        target = parts.pop(0)[1] if clamps else first  # whose limits clamp
        residual = None if step.residual is None else self._results[step.residual]
        if step.layer:
            first_part = parts[0][0] if parts else None
            halves = isinstance(first_part, Pool) and first_part.is_2x2_maximum and self._by_pixel
            parts = parts[1:] if halves else parts
            y = self._convolved(number, residual, target, self._inner_border(parts, border), halves)
        elif residual or clamps or not parts:
            y = self._sum(source, residual, target, self._inner_border(parts, border))
        else:
            y = source
        while parts:
            before, (part, target) = y, parts.pop(0)
            add: Any = self._pooled if isinstance(part, Pool) else self._function
            y = add(part, y, target, self._inner_border(parts, border))
            if before is not source:
                self._release(before)
        return y

    def _inner_border(self, following: list[Any], border: Border) -> Border:
        """Return the border of a tensor inside a step: that of the result, unless its borders may differ."""
        return NO_BORDER if following and self._by_pixel else border

    def _convolved(
        self, number: int, residual: ByteBuffer | None, target: Range, border: Border, halves: bool
    ) -> ByteBuffer:
        weights, fields, bias = self._layer(number, target.scale)
        bias += target.zero
        if residual:
            ratio = residual.range.scale / target.scale
            bias -= ratio * residual.range.zero
            fields |= {"residual": residual, "has_residual": 1, "residual_scale": ratio}
        shape, source = weights.output_shape, self._results[self._steps[number].source]
        if halves:
            shape = ImageShape(shape.channels, shape.height // 2, shape.width // 2)
        fields |= {"input": source, "bias": bias, "halves": int(halves)}
        if self._by_pixel or shape[1:] == weights.stride_one_shape[1:] == source.shape[1:]:
            y = self._buffer(shape, border, target)
            vectors = 0 if self._by_pixel else y.vectors
            self._add(abi.CONVOLVE, shape, output=y, vectors=vectors, border=int(border != NO_BORDER), **fields)
            return y
        if residual:
            raise NotCovered("a sum with a convolution that changes the size of the image")
        wide = self._buffer(weights.stride_one_shape, NO_BORDER, target, source.columns)
        y = self._buffer(shape, border, target)
        self._add(abi.CONVOLVE, shape, output=wide, vectors=wide.vectors, **fields)
        strides = {name: fields[name] for name in ("row_stride", "stride")}
        self._add(abi.CHOOSE, shape, input=wide, output=y, **strides)
        self._release(wide)
        return y

    def _layer(self, number: int, scale: float) -> tuple[ByteWeights, dict[str, Any], np.ndarray]:
        """Return the weights of a step's layer, the operands that compute it in units of `scale`, and its bias."""
        step, (name, held) = self._steps[number], self._weights[number]
        layer, source = step.layer, self._results[step.source]
        assert layer is not None and isinstance(held.module.bias, Tensor)
        w = ByteWeights(layer, held.weight, self._masks[name], source)
        unit = w.scale * (source.range.scale / scale)
        bias = held.module.bias.double().numpy() / scale - unit * w.sums * source.range.zero
        fields = {
            "groups": w.groups, "offsets": w.offsets, "weights": w.values, "scale": unit,
            "row_stride": layer.stride[0], "stride": layer.stride[1],
            "shift": -(layer.padding[0] * source.columns + layer.padding[1]) * self.images,
        }  # fmt: skip
        return w, fields, bias

    def _sum(self, source: ByteBuffer, residual: ByteBuffer | None, target: Range, border: Border) -> ByteBuffer:
        """Add source + residual, or without a residual a copy of the source in another range."""
        ratio = source.range.scale / target.scale
        bias, fields = target.zero - ratio * source.range.zero, {}
        if residual:
            other = residual.range.scale / target.scale
            bias -= other * residual.range.zero
            fields = {"residual": residual, "has_residual": 1, "residual_scale": other}
        y = self._buffer(source.shape, border, target)
        self._add(abi.ADD, y.shape, input=source, output=y, in_scale=ratio, in_bias=bias, **fields)
        return y

    def _concatenated(self, sources: list[ByteBuffer], target: Range, border: Border) -> ByteBuffer:
        y = self._buffer(
            sources[0].shape._replace(channels=sum(source.shape.channels for source in sources)), border, target
        )
        begin = 0
        for source in sources:
            ratio = source.range.scale / target.scale
            bias = target.zero - ratio * source.range.zero
            self._add(abi.ADD, source.shape, input=source, output=y.struct(begin), in_scale=ratio, in_bias=bias)
            begin += source.shape.channels
        return y

    def _product(self, first: ByteBuffer, second: ByteBuffer, target: Range, border: Border) -> ByteBuffer:
        factor, source = sorted((first, second), key=lambda buffer: buffer.shape)
        y = self._buffer(source.shape, border, target)
        ratio, scale = source.range.scale / target.scale, factor.range.scale
        self._add(
            abi.MULTIPLY, y.shape, input=source, residual=factor, output=y, in_scale=ratio,
            in_bias=-ratio * source.range.zero, residual_scale=scale, residual_bias=-scale * factor.range.zero,
        )  # fmt: skip
        return y

    def _function(self, activation: Activation, source: ByteBuffer, target: Range, border: Border) -> ByteBuffer:
        """Add an activation as a table of what it makes of each byte."""
        y = self._buffer(source.shape, border, target)
        numbers = (torch.arange(256, dtype=torch.float64) - source.range.zero) * source.range.scale
        table = (activation.build()(numbers) / target.scale).round() + target.zero
        self._add(abi.LOOK_UP, y.shape, input=source, output=y, table=table.clamp(0, 255).to(torch.uint8))
        return y

    def _pooled(self, pool: Pool, source: ByteBuffer, target: Range, border: Border) -> ByteBuffer:
        shape = ImageShape(source.shape.channels, *pool.output_size(*source.shape[1:]))
        rows, columns = windows_of(pool, *source.shape[1:])
        windows = {"pool_rows": rows, "pool_columns": columns}
        if not pool.averages:
            y = self._buffer(shape, border, source.range)
            self._add(abi.MAXIMUM, shape, input=source, output=y, halves=int(pool.is_2x2_maximum), **windows)
            return y
        y = self._buffer(shape, border, target)
        ratio = source.range.scale / target.scale
        self._add(
            abi.AVERAGE, shape, input=source, output=y, in_scale=ratio, in_bias=-ratio * source.range.zero, **windows
        )
        return y

    def _buffer(self, shape: ImageShape, border: Border, target: Range, columns: int | None = None) -> ByteBuffer:
        """Return memory for an activation: that of an earlier one of its layout which is no longer read, or more."""
        free = self._free[shape, border, columns or shape.width + 2 * border[1], target.zero]
        return ByteBuffer(shape, self.images, border, target, self.slots, columns, free.pop() if free else None)

    def _release(self, buffer: ByteBuffer) -> None:
        self._free[buffer.layout].append(buffer.data)

    def _add(self, kind: int, shape: ImageShape, **fields: Any) -> None:
        """Add an operation: vectors become float32 and pointers, and are kept alive; buffers become structs."""
        operands = {name: self._operand(value) for name, value in fields.items()}
        zero = fields["output"].range.zero if isinstance(fields.get("output"), ByteBuffer) else 0
        self._ops.append(ByteOp(kind=kind, channels=shape.channels, out_zero=zero, **operands))

    def _operand(self, value: Any) -> Any:
        if isinstance(value, ByteBuffer):
            self._alive.append(value.data)
            return value.struct()
        if isinstance(value, np.ndarray):
            value = torch.from_numpy(value)
        if not isinstance(value, Tensor):
            return value
        self._alive.append(value.float() if value.dtype == torch.float64 else value)
        return pointer(self._alive[-1])
