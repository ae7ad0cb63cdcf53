"""Where the kept weights of a layer read: compressed rows, for the layer and for the gradient of its input."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Rows:
    """Kept weights by output channel, as in CSR.

    Attributes:
        starts: int32 [channels + 1]; the weights of channel c are those from starts[c] to starts[c + 1].
        offsets: int32, for each weight how many numbers after the tile's first pixel it reads.
    """

    starts: Tensor
    offsets: Tensor


@dataclass(frozen=True)
class Kept:
    """The coordinates of a mask's weights, in the order of `weight[mask]`; input channels count over all groups."""

    out: np.ndarray
    into: np.ndarray
    row: np.ndarray
    column: np.ndarray
    shape: tuple[int, int, int, int]  # output channels, input channels, kernel

    @classmethod
    def of(cls, mask: Tensor, groups: int = 1) -> Kept:
        """`mask`: [n_out, n_in / groups, height, width]."""
        out, into, row, column = (axis.astype(np.int64) for axis in np.nonzero(mask.numpy()))
        n_out, n_in, height, width = mask.shape
        if groups > 1:
            into = into + out // (n_out // groups) * n_in
        return cls(out, into, row, column, (n_out, n_in * groups, height, width))

    def forward(self, rows: int, columns: int, lanes: int = 1) -> Rows:
        """For an input of `rows` times `columns` pixels of so many numbers, border included."""
        return _rows(self.out, self.shape[0], ((self.into * rows + self.row) * columns + self.column) * lanes)

    def transposed(self, rows: int, columns: int, lanes: int = 1) -> tuple[Rows, Tensor]:
        """The same for the gradient: the kernel is turned round. And which weight each is."""
        order = np.argsort(self.into.astype(np.int32), kind="stable")
        height, width = self.shape[2:]
        row, column = height - 1 - self.row, width - 1 - self.column
        places = ((self.out * rows + row) * columns + column) * lanes
        return _rows(self.into[order], self.shape[1], places[order]), torch.from_numpy(order)


def _rows(channel: np.ndarray, channels: int, places: np.ndarray) -> Rows:
    starts = np.searchsorted(channel, np.arange(channels + 1))
    assert not len(places) or places.max() < 2**31, "an image too large for 32-bit offsets"
    return Rows(torch.from_numpy(starts.astype(np.int32)), torch.from_numpy(places.astype(np.int32)))
