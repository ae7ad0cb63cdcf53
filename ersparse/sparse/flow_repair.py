"""Flow repair: give every channel at least one edge, so that no channel is disconnected (appendix A.1).

A repair is a function (mask, layer, density, random) -> (mask, counts). `density` is the density at which the mask was
drawn, or 1 for a mask that was not drawn; only `resample` uses its value. `ersparse.sparse.degrees` defines edges and
degrees; rows are output channels, columns are input channels. A layer of density 0, which some pruners produce, is not
repaired.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from ersparse.sparse.degrees import Kernels, zero_degrees
from ersparse.sparse.layers import Layer

Random = np.random.Generator


class FlowError(ValueError):
    """A repair that is impossible at the requested density; the message names the layer."""


@dataclass(frozen=True)
class Counts:
    """Counts of drawing and flow repair in one layer; "in" concerns rows (output channels), "out" columns.

    Attributes:
        drawn: kept weights of the mask as drawn.
        zero_in: output channels with in-degree 0 in the mask as drawn.
        zero_out: input channels with out-degree 0 in the mask as drawn.
        added_in: weights added for rows that no removal compensated.
        added_out: weights added for columns that no removal compensated.
        moved_in: weights added for rows in exchange for another weight of the layer.
        moved_out: weights added for columns in exchange for another weight of the layer.
    """

    drawn: int
    zero_in: int = 0
    zero_out: int = 0
    added_in: int = 0
    added_out: int = 0
    moved_in: int = 0
    moved_out: int = 0


def none(mask: Tensor, layer: Layer, density: float, random: Random) -> tuple[Tensor, Counts]:
    """Return the mask as drawn, with its counts."""
    zero_in, zero_out = zero_degrees(mask, layer)
    return mask, Counts(int(mask.sum()), zero_in, zero_out)


def add(mask: Tensor, layer: Layer, density: float, random: Random) -> tuple[Tensor, Counts]:
    """Add one random weight for each channel without an edge (A.1, *Random Addition*).

    Rows are repaired first, then the columns that are still empty. The density of the layer grows.
    """
    _, counts = none(mask, layer, density, random)
    if density == 0:
        return mask, counts
    kernels = Kernels(mask, layer)
    added_in = _fill_rows(kernels, random)
    added_out = _fill_columns(kernels, np.flatnonzero(kernels.column_degree == 0), random)
    return kernels.mask(layer), replace(counts, added_in=added_in, added_out=added_out)


def released(mask: Tensor, layer: Layer, density: float, random: Random) -> tuple[Tensor, Counts]:
    """Repair as the paper's released code does, including its two bugs, to reproduce published results.

    The columns to repair are those that are empty in the mask as drawn. Those of a convolution stay empty unless there
    is exactly one, because the code writes its repair into a copy.
    """
    _, counts = none(mask, layer, density, random)
    if density == 0:
        return mask, counts
    kernels = Kernels(mask, layer)
    empty = np.flatnonzero(kernels.column_degree == 0)
    added_in = _fill_rows(kernels, random)
    added_out = _fill_columns(kernels, empty, random) if mask.dim() == 2 or len(empty) == 1 else 0
    return kernels.mask(layer), replace(counts, added_in=added_in, added_out=added_out)


def move(mask: Tensor, layer: Layer, density: float, random: Random) -> tuple[Tensor, Counts]:
    """Repair like `add`, and compensate each added weight by removing another one (A.1).

    A random weight is removed whose channels both keep an edge; if none is left, two edges are merged into one.
    The count of the mask as drawn is preserved if it is at least max(rows, columns), the minimum with which every
    channel has an edge. Below that, the excess is counted as added, columns first since they are repaired last.
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
    """Redraw the weights of each channel without an edge, conditioned on degree >= 1 (A.1, *Rejection Sampling*).

    The draw is from the conditional distribution directly, so nothing is rejected. For the layer to have its nominal
    density in expectation, the mask must have been drawn by Bernoulli trials at `conditioned_density`.
    """
    _, counts = none(mask, layer, density, random)
    if density == 0:
        return mask, counts
    kernels = Kernels(mask, layer)
    for row in np.flatnonzero(kernels.row_degree == 0):
        kernels.kept[row] = _draw_nonempty(kernels.kept[row].shape, density, random)
    after_rows = Kernels(kernels.mask(layer), layer)
    added_in = int(after_rows.kept.sum()) - counts.drawn
    for column in np.flatnonzero(after_rows.column_degree == 0).tolist():
        rows, i = after_rows.rows_of(column), column % after_rows.columns_per_group
        after_rows.kept[rows, i] = _draw_nonempty(after_rows.kept[rows, i].shape, density, random)
    added_out = int(after_rows.kept.sum()) - counts.drawn - added_in
    return after_rows.mask(layer), replace(counts, added_in=added_in, added_out=added_out)


def conditioned_density(layer: Layer, density: float) -> float:
    """Return the density at which to draw, so that the expected density after `resample` is `density` (A.1).

    Let n be the weights of a row, m those of a column, k those of a kernel, and q = 1 - p. A row has n p / (1 - q^n)
    weights in expectation. A column is then empty with probability ((q^k - q^n) / (1 - q^n))^rows, and receives
    m p / (1 - q^m) weights in expectation if it is.

    Args:
        layer: the layer.
        density: nominal density of the layer, in [0, 1].

    Raises:
        FlowError: one edge for each channel needs more weights than `density` allows.
    """
    from scipy.optimize import brentq  # takes half a second to import

    if density in (0, 1):
        return density

    def surplus(log_p: float) -> float:
        return _conditioned_count(layer, math.exp(log_p)) - density * layer.size

    smallest, largest = math.log(density) - 40, math.log(density)
    if surplus(largest) <= 0:  # conditioning changes the count by less than the rounding error
        return density
    if surplus(smallest) >= 0:
        raise FlowError(
            f"layer {layer.name}: resample needs more than {_conditioned_count(layer, math.exp(smallest)):.0f} weights "
            f"to give every channel an edge, its density allows {density * layer.size:.1f}; use flow=move or add"
        )
    return math.exp(brentq(surplus, smallest, largest, xtol=1e-14))


def _conditioned_count(layer: Layer, p: float) -> float:
    """Return the expected number of weights after `resample` of a layer drawn at density p < 1."""
    log_q = math.log1p(-p)
    rows, n, k = layer.n_out // layer.groups, layer.fan_in, math.prod(layer.shape[2:])
    m = rows * k
    nonempty_row = -math.expm1(n * log_q)
    empty_column = (math.exp(k * log_q) * -math.expm1((n - k) * log_q) / nonempty_row) ** rows
    return layer.n_out * n * p / nonempty_row + layer.n_in * empty_column * m * p / -math.expm1(m * log_q)


def _draw_nonempty(shape: tuple[int, ...], density: float, random: Random) -> np.ndarray:
    """Draw Bernoulli trials conditioned on at least one success.

    The index of the first success follows a truncated geometric distribution; the trials after it are independent.
    """
    kept = random.random(math.prod(shape)) < density
    nonempty = -math.expm1(kept.size * math.log1p(-density)) if density < 1 else 1.0
    first = int(math.log1p(-random.random() * nonempty) / math.log1p(-density)) if density < 1 else 0
    kept[:first] = False
    kept[min(first, kept.size - 1)] = True
    return kept.reshape(shape)


def _fill_rows(kernels: Kernels, random: Random) -> int:
    """Add one random weight to each empty row, and return the number of weights added."""
    empty = np.flatnonzero(kernels.row_degree == 0)
    for row in empty:
        _, columns, k = kernels.kept.shape
        kernels.set(int(row), int(random.integers(columns)), int(random.integers(k)), True)
    return len(empty)


def _fill_columns(kernels: Kernels, columns: np.ndarray, random: Random) -> int:
    """Add one random weight to each of `columns`, unless it is kept already; return the number of weights added."""
    filled = 0
    for column in columns.tolist():
        rows, i = kernels.rows_of(column), column % kernels.columns_per_group
        row, k = int(random.integers(rows.start, rows.stop)), int(random.integers(kernels.kept.shape[2]))
        if not kernels.kept[row, i, k]:
            kernels.set(row, i, k, True)
            filled += 1
    return filled


def _remove_spare(kernels: Kernels, most: int, random: Random) -> int:
    """Remove up to `most` random weights whose channels keep an edge, and return the number of weights removed.

    One pass suffices: removals only lower degrees, so a weight that is not removable never becomes removable.
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
    """Remove up to `most` further weights from a mask without removable weights, and return the number removed.

    The channel graph of such a mask is a disjoint union of stars. If row r has several columns and column c has several
    rows, the edges (r, c') and (r', c) can be replaced by the one edge (r', c'): every channel keeps an edge, and one
    weight is saved. Once a group has no such pair, its number of weights is max(rows, columns), the minimum.
    """
    removed = 0
    for group in range(len(kernels.row_degree) // kernels.rows_per_group):
        rows = np.arange(kernels.rows_per_group) + group * kernels.rows_per_group
        columns = np.arange(kernels.columns_per_group) + group * kernels.columns_per_group
        while removed < most:
            row_centres = rows[kernels.row_degree[rows] > 1]
            column_centres = columns[kernels.column_degree[columns] > 1]
            if not (len(row_centres) and len(column_centres)):
                break
            row, column = random.choice(row_centres), random.choice(column_centres)
            _merge_pair(kernels, row, column % kernels.columns_per_group, rows, random)
            removed += 1
    return removed


def _merge_pair(kernels: Kernels, row: int, i: int, rows: np.ndarray, random: Random) -> None:
    """Replace one edge of each of two stars by one edge between their leaves.

    Args:
        kernels: the mask; it changes in place.
        row: centre of the first star.
        i: position, within its group, of the column that is the centre of the second star.
        rows: the rows of the group.
        random: the random number generator.
    """
    leaf_i = random.choice(np.flatnonzero(kernels.weights[row]))
    leaf_row = random.choice(rows[kernels.weights[rows, i] > 0])
    kernels.set(row, leaf_i, int(kernels.kept[row, leaf_i].argmax()), False)
    kernels.set(leaf_row, i, int(kernels.kept[leaf_row, i].argmax()), False)
    kernels.set(leaf_row, leaf_i, int(random.integers(kernels.kept.shape[2])), True)
