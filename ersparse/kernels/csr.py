"""Sparsity patterns of convolutions: coordinates (COO) of kept weights, and compressed sparse rows (CSR)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class CSRPattern:
    """Compressed sparse rows of one layer: a row for each output channel, and input offsets in place of column indices.

    Attributes:
        row_pointers: int32 [n_out + 1]; the weights of channel c are those from row_pointers[c] to row_pointers[c + 1].
        offsets: int32 [kept weights]; the distance in memory, in elements, from the first pixel that an output pixel
            reads to the pixel that this weight multiplies; in ascending order of the input channels in each row.
        plane: the distance in memory, in elements, from an input channel to the next.
    """

    row_pointers: Tensor
    offsets: Tensor
    plane: int


@dataclass(frozen=True)
class MaskCoordinates:
    """Coordinates (COO) of the kept weights of a convolution, in the order of `weight[mask]`.

    Attributes:
        out_channel, in_channel, row, column: int64 [kept weights]; input channels are numbered over all groups.
        shape: output channels, input channels of all groups, height and width that a kernel covers.
    """

    out_channel: np.ndarray
    in_channel: np.ndarray
    row: np.ndarray
    column: np.ndarray
    shape: tuple[int, int, int, int]

    @classmethod
    def from_mask(cls, mask: Tensor, groups: int = 1, dilation: tuple[int, int] = (1, 1)) -> MaskCoordinates:
        """Return the coordinates of a boolean mask [n_out, n_in / groups, height, width], whose kernel is dilated."""
        out_channel, in_channel, row, column = (axis.astype(np.int64) for axis in np.nonzero(mask.numpy()))
        n_out, n_in, height, width = mask.shape
        if groups > 1:
            in_channel = in_channel + out_channel // (n_out // groups) * n_in
        shape = (n_out, n_in * groups, *dilated((height, width), dilation))
        return cls(out_channel, in_channel, row * dilation[0], column * dilation[1], shape)

    def forward_pattern(self, rows: int, columns: int, images: int = 1) -> CSRPattern:
        """Return the pattern of the forward pass.

        Args:
            rows: height of an input channel in pixels, its zero border included.
            columns: width of an input channel in pixels, its zero border included.
            images: elements per pixel, which is the number of images that lie side by side in memory.
        """
        offsets = ((self.in_channel * rows + self.row) * columns + self.column) * images
        return _compress(self.out_channel, self.shape[0], offsets, rows * columns * images)

    def transposed_pattern(self, rows: int, columns: int, images: int = 1) -> tuple[CSRPattern, Tensor]:
        """Return the pattern of the input gradient, which is a convolution with the flipped, transposed kernel.

        Args:
            rows: height of a channel of the output gradient in pixels, its zero border included.
            columns: width of a channel of the output gradient in pixels, its zero border included.
            images: elements per pixel.

        Returns:
            The pattern, and the permutation int64 [kept weights] that brings `weight[mask]` into its order.
        """
        order = np.argsort(self.in_channel.astype(np.int32), kind="stable")
        height, width = self.shape[2:]
        row, column = height - 1 - self.row, width - 1 - self.column
        offsets = ((self.out_channel * rows + row) * columns + column) * images
        pattern = _compress(self.in_channel[order], self.shape[1], offsets[order], rows * columns * images)
        return pattern, torch.from_numpy(order)


def dilated(kernel: tuple[int, int], dilation: tuple[int, int]) -> tuple[int, int]:
    """Return the height and width that a dilated kernel covers."""
    return (kernel[0] - 1) * dilation[0] + 1, (kernel[1] - 1) * dilation[1] + 1


def _compress(channel: np.ndarray, channels: int, offsets: np.ndarray, plane: int) -> CSRPattern:
    """Compress sorted channel indices [kept weights] into row pointers."""
    row_pointers = np.searchsorted(channel, np.arange(channels + 1))
    assert not len(offsets) or offsets.max() < 2**31, "the image is too large for 32-bit offsets"
    return CSRPattern(
        torch.from_numpy(row_pointers.astype(np.int32)), torch.from_numpy(offsets.astype(np.int32)), plane
    )
