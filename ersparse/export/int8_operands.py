"""Activations and kept weights as bytes, in the layout of the kernels of 8-bit prediction."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ersparse.export.folded import FoldedLayer
from ersparse.export.ranges import Range
from ersparse.kernels.abi import pointer
from ersparse.kernels.csr import MaskCoordinates
from ersparse.kernels.int8_abi import ByteTensor
from ersparse.kernels.nodes import NotCovered
from ersparse.kernels.shapes import ImageShape

VECTOR = 64  # bytes that the kernels compute at a time: BYTES in quads.h
Border = tuple[int, int]


class ByteBuffer:
    """An activation, [slots, channels, rows, columns, images] of bytes, with a border of bytes that stand for 0.

    Args:
        shape: the shape of one image.
        images: 64, 16 or 1, which stand side by side.
        border: rows above and below, and columns on both sides.
        stands_for: the numbers that the bytes 0 and 255 stand for.
        slots: number of blocks.
        columns: the distance between two rows in pixels; None for the width and the border.
        memory: of a buffer of the same layout that is no longer read; None to allocate it.
    """

    def __init__(
        self,
        shape: ImageShape,
        images: int,
        border: Border,
        stands_for: Range,
        slots: int,
        columns: int | None = None,
        memory: Tensor | None = None,
    ) -> None:
        self.shape, self.images, self.border, self.range = shape, images, border, stands_for
        self.columns = columns or shape.width + 2 * border[1]
        self.origin = (border[0] * self.columns + border[1]) * images
        content = ((shape.height - 1) * self.columns + shape.width) * images  # from the first to the last pixel
        self.vectors = -(-content // VECTOR)
        rows = (shape.height + 2 * border[0]) * self.columns * images
        # a channel that is computed from end to end is written in whole vectors
        self.channel_size = -(-max(rows, self.origin + self.vectors * VECTOR) // VECTOR) * VECTOR
        size = (slots, shape.channels * self.channel_size + VECTOR)  # the last vector of a weight may begin at the end
        self.data = torch.full(size, stands_for.zero, dtype=torch.uint8) if memory is None else memory

    @property
    def layout(self) -> object:
        """What buffers that share their memory have in common, the bytes of the border included."""
        return self.shape, self.border, self.columns, self.range.zero

    def struct(self, channel: int = 0) -> ByteTensor:
        """Return the struct of the channels from `channel` on."""
        return ByteTensor(
            pointer(self.data[:, channel * self.channel_size :]), self.data.stride(0), self.channel_size,
            self.columns * self.images, self.origin, self.shape.height, self.shape.width,
        )  # fmt: skip


class ByteWeights:
    """The kept weights of a layer as bytes, in groups of four that are multiplied together; zeros fill the last group.

    Args:
        layer: the layer.
        weight: its weights.
        mask: boolean, in the shape of the weight.
        source: what it reads.

    Attributes:
        groups: int32 [n_out + 1]; the groups of output channel c are those from groups[c] to groups[c + 1].
        offsets: int32 [4 * groups]: where each weight reads, in bytes.
        values: int8 [4 * groups], from -127 to 127.
        scale: float64 [n_out]: a weight is its value times the scale of its channel.
        sums: float64 [n_out]: the sum of the values of a channel.
        stride_one_shape: the shape that the layer's result would have with stride 1.
        output_shape: the shape of the layer's result.

    Raises:
        NotCovered: the sums of a channel may exceed 32 bits, or the source is too large.
    """

    def __init__(self, layer: FoldedLayer, weight: Tensor, mask: Tensor, source: ByteBuffer) -> None:
        (height, width), (down, across) = layer.shape[2:] or source.shape[1:], layer.dilation
        n_out = len(mask)
        coordinates = MaskCoordinates.from_mask(mask.reshape(n_out, -1, height, width), layer.groups, (down, across))
        channel, pixel = coordinates.out_channel, coordinates.row * source.columns + coordinates.column
        offsets = coordinates.in_channel * source.channel_size + pixel * source.images
        starts = np.searchsorted(channel, np.arange(n_out + 1))
        largest = weight.flatten(1).abs().amax(1).double().numpy()
        self.scale = np.where(largest > 0, largest, 127) / 127
        values = np.rint(weight[mask].double().numpy() / self.scale[channel])
        self.sums = np.bincount(channel, values, n_out)
        if np.bincount(channel, abs(values), n_out).max() * 255 >= 2**31:
            raise NotCovered(f"{layer.name} in 8 bits, whose sums exceed 32 bits")
        if offsets.max(initial=0) >= 2**31:
            raise NotCovered(f"{layer.name} in 8 bits, whose source is too large for 32-bit offsets")
        groups = np.concatenate([[0], np.cumsum(-(-np.diff(starts) // 4))])
        place = torch.from_numpy(4 * groups[channel] + np.arange(len(channel)) - starts[channel])
        self.groups = torch.from_numpy(groups.astype(np.int32))
        self.offsets = torch.zeros(4 * groups[-1], dtype=torch.int32)
        self.values = torch.zeros(4 * groups[-1], dtype=torch.int8)
        self.offsets[place] = torch.from_numpy(offsets.astype(np.int32))
        self.values[place] = torch.from_numpy(values.astype(np.int8))
        paddings = layer.padding, layer.end_padding or layer.padding
        covered = coordinates.shape[2:]
        sizes = zip(source.shape[1:], *paddings, covered, strict=True)
        height, width = (size + before + after - k + 1 for size, before, after, k in sizes)
        self.stride_one_shape = ImageShape(n_out, height, width)
        self.output_shape = ImageShape(n_out, -(-height // layer.stride[0]), -(-width // layer.stride[1]))
