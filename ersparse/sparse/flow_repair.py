"""Flow repair: no channel without an edge (A.1).

Degrees are those of the channel graph: an edge joins input channel i and output channel o where the kernel (o, i)
keeps any weight. A repair is (mask, layer, density, random) -> (mask, counts) and works on one layer, whose mask was
drawn at `density`; rows are output channels, columns input channels. A layer of density 0 (some pruners empty one)
is not repaired.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ersparse.sparse.layers import Layer

Random = np.random.Generator


class FlowError(ValueError):
    """A repair that cannot be done as asked. The message names the layer."""


@dataclass(frozen=True)
class Counts:
    """What a layer's repair found and did; "in" concerns output channels (rows), "out" input channels (columns).

    Attributes:
        drawn: kept weights of the mask as drawn.
        zero_in, zero_out: channels without an edge in the mask as drawn.
        added_in, added_out: weights put in that nothing made up for, by the direction that they repaired.
        moved_in, moved_out: weights put in for which another went away.
    """

    drawn: int
    zero_in: int = 0
    zero_out: int = 0
    added_in: int = 0
    added_out: int = 0
    moved_in: int = 0
    moved_out: int = 0


class Kernels:
    """A mask as an array of kernels, its degrees kept up to date. Columns are numbered through all groups."""

    def __init__(self, mask: Tensor, layer: Layer) -> None:
        self.kept = mask.numpy().reshape(layer.n_out, layer.shape[1], -1).copy()
        self.columns_per_group, self.rows_per_group = layer.shape[1], layer.n_out // layer.groups
        self.weights = self.kept.sum(2, dtype=np.int64)  # kept weights of each kernel
        edges = self.weights > 0
        self.row_degree = edges.sum(1)
        by_group = edges.reshape(layer.groups, self.rows_per_group, self.columns_per_group)
        self.column_degree = by_group.sum(1).reshape(-1)

    def column(self, row: int, i: int) -> int:
        """The number of the column that lies at position i of a row."""
        return row // self.rows_per_group * self.columns_per_group + i

    def rows_of(self, column: int) -> slice:
        """The rows that a column can feed: those of its group."""
        start = column // self.columns_per_group * self.rows_per_group
        return slice(start, start + self.rows_per_group)

    def set(self, row: int, i: int, k: int, keep: bool) -> None:
        """Puts one weight in, or takes it out; it must not be so already."""
        by = 1 if keep else -1
        edge_before = self.weights[row, i] > 0
        self.kept[row, i, k] = keep
        self.weights[row, i] += by
        if edge_before != (self.weights[row, i] > 0):
            self.row_degree[row] += by
            self.column_degree[self.column(row, i)] += by

    def removable(self, row: int, i: int) -> bool:
        """Whether a kept weight of this kernel can go and leave both its channels with an edge."""
        spare = self.row_degree[row] > 1 and self.column_degree[self.column(row, i)] > 1
        return bool(self.weights[row, i] > 1 or spare)

    def mask(self, layer: Layer) -> Tensor:
        return torch.from_numpy(self.kept.reshape(layer.shape))


def degrees(mask: Tensor, layer: Layer) -> tuple[np.ndarray, np.ndarray]:
    """In-degrees of the output channels [n_out] and out-degrees of the input channels [n_in]."""
    kernels = Kernels(mask.cpu(), layer)
    return kernels.row_degree, kernels.column_degree


def zero_degrees(mask: Tensor, layer: Layer) -> tuple[int, int]:
    """Output channels without an input, and input channels without an output."""
    rows, columns = degrees(mask, layer)
    return int((rows == 0).sum()), int((columns == 0).sum())


def none(mask: Tensor, layer: Layer, density: float, random: Random) -> tuple[Tensor, Counts]:
    """Counts, and leaves the mask as drawn."""
    zero_in, zero_out = zero_degrees(mask, layer)
    return mask, Counts(int(mask.sum()), zero_in, zero_out)


def add(mask: Tensor, layer: Layer, density: float, random: Random) -> tuple[Tensor, Counts]:
    """One random weight for each channel without an edge: rows first, then the columns that are still empty."""
    _, counts = none(mask, layer, density, random)
    if density == 0:
        return mask, counts
    kernels = Kernels(mask, layer)
    added_in = _fill_rows(kernels, random)
    added_out = _fill(kernels, np.flatnonzero(kernels.column_degree == 0), random)
    return kernels.mask(layer), replace(counts, added_in=added_in, added_out=added_out)


def released(mask: Tensor, layer: Layer, density: float, random: Random) -> tuple[Tensor, Counts]:
    """`add` with the released code's slips, to reproduce it: columns are those that are empty in the mask as drawn, and
    a convolution's stay empty unless there is exactly one, for its repair writes into a copy.
    """
    _, counts = none(mask, layer, density, random)
    if density == 0:
        return mask, counts
    kernels = Kernels(mask, layer)
    empty = np.flatnonzero(kernels.column_degree == 0)
    added_in = _fill_rows(kernels, random)
    added_out = _fill(kernels, empty, random) if mask.dim() == 2 or len(empty) == 1 else 0
    return kernels.mask(layer), replace(counts, added_in=added_in, added_out=added_out)


def move(mask: Tensor, layer: Layer, density: float, random: Random) -> tuple[Tensor, Counts]:
    """As `add`, but for each weight put in another goes, whose channels both keep an edge.

    The drawn count stays wherever so many weights can reach every channel, that is, from max(rows, columns) on.
    Below that the excess is counted as added, on the columns first, which are repaired last.
    """
    repaired, counts = add(mask, layer, density, random)
    excess = counts.added_in + counts.added_out
    if excess == 0:
        return repaired, counts
    kernels = Kernels(repaired, layer)
    excess -= _remove_spare(kernels, excess, random)
    excess -= _merge_stars(kernels, excess, random)
    left_out = min(excess, counts.added_out)
    left_in = excess - left_out
    return kernels.mask(layer), replace(
        counts,
        added_in=left_in,
        added_out=left_out,
        moved_in=counts.added_in - left_in,
        moved_out=counts.added_out - left_out,
    )


def resample(mask: Tensor, layer: Layer, density: float, random: Random) -> tuple[Tensor, Counts]:
    """Redraws the weights of each channel without an edge, given that it has one (A.1, *Rejection Sampling*).

    Draws from the conditional distribution directly, so nothing is rejected. The mask must have been drawn with
    independent weights, at `conditioned_density`, for the density asked for to come out.
    """
    _, counts = none(mask, layer, density, random)
    if density == 0:
        return mask, counts
    kernels = Kernels(mask, layer)
    for row in np.flatnonzero(kernels.row_degree == 0):
        kernels.kept[row] = _given_one(kernels.kept[row].shape, density, random)
    after_rows = Kernels(kernels.mask(layer), layer)
    added_in = int(after_rows.kept.sum()) - counts.drawn
    for column in np.flatnonzero(after_rows.column_degree == 0).tolist():
        rows, i = after_rows.rows_of(column), column % layer.shape[1]
        after_rows.kept[rows, i] = _given_one(after_rows.kept[rows, i].shape, density, random)
    added_out = int(after_rows.kept.sum()) - counts.drawn - added_in
    return after_rows.mask(layer), replace(counts, added_in=added_in, added_out=added_out)


def conditioned_density(layer: Layer, density: float) -> float:
    """The density to draw at so that `density` comes out once `resample` has given every channel an edge (A.1).

    With n weights a row, m a column, k a kernel, q = 1 - p: each row then expects n p / (1 - q^n) weights, a column is
    empty with probability ((q^k - q^n) / (1 - q^n))^rows, and gets m p / (1 - q^m) where it is.

    Raises:
        FlowError: rows and columns alone need more weights than `density` allows.
    """
    from scipy.optimize import brentq  # takes half a second to import

    if density in (0, 1):
        return density

    def surplus(log_p: float) -> float:
        return _conditioned_count(layer, math.exp(log_p)) - density * layer.size

    smallest, largest = math.log(density) - 40, math.log(density)
    if surplus(largest) <= 0:  # conditioning changes less than rounding does
        return density
    if surplus(smallest) >= 0:
        raise FlowError(
            f"layer {layer.name}: resample needs more than {_conditioned_count(layer, math.exp(smallest)):.0f} weights "
            f"to give every channel an edge, its density allows {density * layer.size:.1f}; flow=move or add can"
        )
    return math.exp(brentq(surplus, smallest, largest, xtol=1e-14))


def _conditioned_count(layer: Layer, p: float) -> float:
    """Expected weights after `resample` of a layer that was drawn at density p < 1."""
    log_q = math.log1p(-p)
    rows, n, k = layer.n_out // layer.groups, layer.fan_in, layer.fan_in // layer.shape[1]
    m = rows * k
    some_in_row = -math.expm1(n * log_q)
    empty_column = (math.exp(k * log_q) * -math.expm1((n - k) * log_q) / some_in_row) ** rows
    return layer.n_out * n * p / some_in_row + layer.n_in * empty_column * m * p / -math.expm1(m * log_q)


def _given_one(shape: tuple[int, ...], density: float, random: Random) -> np.ndarray:
    """Independent draws given that not all of them fail: a truncated geometric first success, the rest free."""
    kept = random.random(math.prod(shape)) < density
    some = -math.expm1(kept.size * math.log1p(-density)) if density < 1 else 1.0
    first = int(math.log1p(-random.random() * some) / math.log1p(-density)) if density < 1 else 0
    kept[:first] = False
    kept[min(first, kept.size - 1)] = True
    return kept.reshape(shape)


def _fill_rows(kernels: Kernels, random: Random) -> int:
    """One random weight into each empty row; returns how many."""
    empty = np.flatnonzero(kernels.row_degree == 0)
    for row in empty:
        _, columns, k = kernels.kept.shape
        kernels.set(int(row), int(random.integers(columns)), int(random.integers(k)), True)
    return len(empty)


def _fill(kernels: Kernels, columns: np.ndarray, random: Random) -> int:
    """One random weight into each column, unless it is there already; returns how many were put in."""
    filled = 0
    for column in columns.tolist():
        rows, i = kernels.rows_of(column), column % kernels.columns_per_group
        row, k = int(random.integers(rows.start, rows.stop)), int(random.integers(kernels.kept.shape[2]))
        if not kernels.kept[row, i, k]:
            kernels.set(row, i, k, True)
            filled += 1
    return filled


def _remove_spare(kernels: Kernels, most: int, random: Random) -> int:
    """Takes out up to `most` random weights whose channels keep an edge; returns how many.

    One pass finds them all: removals only lower degrees, so what could not go before cannot go later.
    """
    removed = 0
    for row, i, k in random.permutation(np.argwhere(kernels.kept)):
        if removed == most:
            break
        if kernels.removable(row, i):
            kernels.set(row, i, k, False)
            removed += 1
    return removed


def _merge_stars(kernels: Kernels, most: int, random: Random) -> int:
    """Takes out up to `most` more weights from a mask of which none is spare; returns how many.

    Such a mask is a set of stars. A row r with several columns and a column c with several rows give up the edges
    (r, c') and (r', c) for the one edge (r', c'): every channel keeps an edge, and one weight is saved. When no such
    pair is left in any group, the layer has max(rows, columns) weights, the least that can be.
    """
    removed = 0
    for group in range(len(kernels.row_degree) // kernels.rows_per_group):
        rows = np.arange(kernels.rows_per_group) + group * kernels.rows_per_group
        columns = np.arange(kernels.columns_per_group) + group * kernels.columns_per_group
        while removed < most:
            wide = rows[kernels.row_degree[rows] > 1]
            tall = columns[kernels.column_degree[columns] > 1]
            if not (len(wide) and len(tall)):
                break
            _merge(kernels, random.choice(wide), random.choice(tall) % kernels.columns_per_group, rows, random)
            removed += 1
    return removed


def _merge(kernels: Kernels, row: int, i: int, rows: np.ndarray, random: Random) -> None:
    """Row `row` is the centre of a star, and so is the column at position `i` of the group that has `rows`."""
    leaf_i = random.choice(np.flatnonzero(kernels.weights[row]))
    leaf_row = random.choice(rows[kernels.weights[rows, i] > 0])
    kernels.set(row, leaf_i, int(kernels.kept[row, leaf_i].argmax()), False)
    kernels.set(leaf_row, i, int(kernels.kept[leaf_row, i].argmax()), False)
    kernels.set(leaf_row, leaf_i, int(random.integers(kernels.kept.shape[2])), True)
