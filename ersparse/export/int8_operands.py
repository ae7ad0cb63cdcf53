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

IMAGES = 64  # in a block: IMAGES in quads.h
Border = tuple[int, int]


class ByteBuffer:
    """An activation, [slots, channels, rows, columns, 64 images] of bytes, with a border of bytes that stand for 0.

    Args:
        shape: the shape of one image.
        border: rows above and below, and columns on both sides.
        stands_for: the numbers that the bytes 0 and 255 stand for.
        slots: number of blocks.
        memory: of a buffer of the same layout that is no longer read; None to allocate it.
    """

    def __init__(
        self, shape: ImageShape, border: Border, stands_for: Range, slots: int, memory: Tensor | None = None
    ) -> None:
        self.shape, self.border, self.range = shape, border, stands_for
        self.rows, self.columns = shape.height + 2 * border[0], shape.width + 2 * border[1]
        size = (slots, shape.channels, self.rows, self.columns, IMAGES)
        self.data = torch.full(size, stands_for.zero, dtype=torch.uint8) if memory is None else memory

    @property
    def layout(self) -> object:
        """What two buffers have in common that can share their memory, the bytes of the border included."""
        return self.shape, self.border, self.range.zero

    def struct(self, channel: int = 0) -> ByteTensor:
        """Return the struct of the channels from `channel` on."""
        return ByteTensor(
            pointer(self.data[:, channel:]), self.data.stride(0), self.shape.height, self.shape.width, self.rows,
            self.columns, self.border[0] * self.columns + self.border[1],
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
        output_shape: the shape of the layer's result.

    Raises:
        NotCovered: the sums of a channel may exceed 32 bits.
    """

    def __init__(self, layer: FoldedLayer, weight: Tensor, mask: Tensor, source: ByteBuffer) -> None:
        (height, width), (down, across) = layer.shape[2:] or source.shape[1:], layer.dilation
        n_out = len(mask)
        coordinates = MaskCoordinates.from_mask(mask.reshape(n_out, -1, height, width), layer.groups, (down, across))
        pattern = coordinates.forward_pattern(source.rows, source.columns, IMAGES)
        starts = pattern.row_pointers.numpy().astype(np.int64)
        channel = np.repeat(np.arange(n_out), np.diff(starts))
        largest = weight.flatten(1).abs().amax(1).double().numpy()
        self.scale = np.where(largest > 0, largest, 127) / 127
        values = np.rint(weight[mask].double().numpy() / self.scale[channel])
        self.sums = np.bincount(channel, values, n_out)
        if np.bincount(channel, abs(values), n_out).max() * 255 >= 2**31:
            raise NotCovered(f"{layer.name} in 8 bits, whose sums exceed 32 bits")
        groups = np.concatenate([[0], np.cumsum(-(-np.diff(starts) // 4))])
        place = torch.from_numpy(4 * groups[channel] + np.arange(len(channel)) - starts[channel])
        self.groups = torch.from_numpy(groups.astype(np.int32))
        self.offsets = torch.zeros(4 * groups[-1], dtype=torch.int32)
        self.values = torch.zeros(4 * groups[-1], dtype=torch.int8)
        self.offsets[place], self.values[place] = pattern.offsets, torch.from_numpy(values.astype(np.int8))
        paddings = layer.padding, layer.end_padding or layer.padding
        covered = coordinates.shape[2:]
        sizes = zip(source.shape[1:], *paddings, covered, layer.stride, strict=True)
        self.output_shape = ImageShape(n_out, *((n + before + after - k) // s + 1 for n, before, after, k, s in sizes))
