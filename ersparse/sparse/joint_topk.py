"""Selection of the largest values of many tensors at once, by as many operations as for one.

On a GPU each operation costs the host a launch, and a network of many small layers launches more than it computes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ersparse.sparse.topk import memory_order
from ersparse.sparse.transfer import to_device

WIDTH = 1024  # values in a row; each tensor has rows of its own
BITS = 4  # of a threshold that are found in one pass over the values
LOWEST = -(2**31)  # the smallest int32
LARGEST_TOTAL = 1 << 22  # values in all up to which the passes, which are more than of `topk`, take less than launches


class JointTopK:
    """Selects from each tensor a number of its largest values; ties go to the values that come first in memory.

    The thresholds of all tensors are found together, by a radix search over their bits: every pass counts the values
    above each candidate for the next bits. Nothing waits for the device.

    Args:
        sizes: number of values of each tensor.
        counts: number of values to select from each.
        device: of the tensors.
    """

    def __init__(self, sizes: Sequence[int], counts: Sequence[int], device: torch.device) -> None:
        self.rows = [-(-size // WIDTH) for size in sizes]
        first = np.cumsum([0, *self.rows[:-1]])
        self.counts = to_device(torch.tensor(counts), device)
        self.first = to_device(torch.from_numpy(first), device)
        self.tensor_of_row = to_device(torch.arange(len(sizes)).repeat_interleave(torch.tensor(self.rows)), device)
        self.digits = to_device(torch.arange(1, 2**BITS)[:, None], device)

    def masks(self, values: Sequence[Tensor]) -> list[Tensor]:
        """Return the masks of the largest values, in the shapes of `values`: float32, without NaN."""
        ordered = [tensor.permute(memory_order(tensor)) for tensor in values]
        keys = _sortable(self._in_rows([tensor.reshape(-1) for tensor in ordered]))
        threshold = self._thresholds(keys)[self.tensor_of_row, None]
        above, tied = keys > threshold, keys == threshold
        mask = above | (tied & (tied.cumsum(1) <= self._ties_left(above, tied)[:, None]))
        parts = torch.split(mask.reshape(-1), [rows * WIDTH for rows in self.rows])
        return [
            part[: tensor.numel()].reshape(tensor.shape).permute(tuple(np.argsort(memory_order(original)).tolist()))
            for part, tensor, original in zip(parts, ordered, values, strict=True)
        ]

    def _in_rows(self, flat: Sequence[Tensor]) -> Tensor:
        """Return all values as a matrix; each tensor begins with a row, and is filled up by the lowest value."""
        filler = flat[0].new_full((WIDTH,), -torch.inf)
        pieces = [piece for values in flat for piece in (values, filler[: -len(values) % WIDTH])]
        return torch.cat(pieces).reshape(-1, WIDTH)

    def _thresholds(self, keys: Tensor) -> Tensor:
        """Return for each tensor the largest number that at least `counts` of its keys reach."""
        threshold = torch.full_like(self.counts, LOWEST)
        for shift in range(32 - BITS, -1, -BITS):
            candidates = threshold + (self.digits << shift)
            reached = (keys >= candidates[:, self.tensor_of_row, None]).sum(2)
            enough = self._by_tensor(reached) >= self.counts
            threshold = threshold + (enough.sum(0) << shift)
        return threshold

    def _ties_left(self, above: Tensor, tied: Tensor) -> Tensor:
        """Return how many values that equal the threshold may be selected from each row on."""
        wanted = self.counts - self._by_tensor(above.sum(1)[None])[0]
        in_row = tied.sum(1)
        earlier = in_row.cumsum(0) - in_row
        return (wanted + earlier[self.first])[self.tensor_of_row] - earlier

    def _by_tensor(self, by_row: Tensor) -> Tensor:
        """Add up the columns of each tensor's rows, [n, rows] -> [n, tensors]."""
        return by_row.new_zeros(len(by_row), len(self.rows)).index_add_(1, self.tensor_of_row, by_row)


def _sortable(values: Tensor) -> Tensor:
    """Return int32 numbers in the order of float32 values, equal ones for -0.0 and 0.0."""
    bits = (values + 0.0).view(torch.int32)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)
