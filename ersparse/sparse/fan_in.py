"""Constant fan-in: every output channel of a layer has the same number of weights (Lasby et al. 2024, section 3).

The output norm of such a layer varies less from draw to draw than that of a layer with independent weights or with a
fixed count (section 4 there). Rows are output channels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ersparse.sparse.degrees import Kernels
from ersparse.sparse.flow_repair import Counts, Random, none
from ersparse.sparse.layers import Layer


def fan_ins(layers: Sequence[Layer], densities: Sequence[float]) -> list[int]:
    """Return the number of weights of each output channel, by layer.

    A layer of density p_l has p_l times its fan-in, rounded up or down, and at least one if p_l > 0. Which way follows
    from the rounding errors so far, layers with more output channels first, so that errors compensate each other: what
    remains is at most half a weight for each output channel of the widest layer.

    Args:
        layers: prunable layers, in network order.
        densities: density of each layer, in [0, 1].
    """
    found, missing = [0] * len(layers), 0.0  # weights that the layers so far have too few
    for i in sorted(range(len(layers)), key=lambda i: -layers[i].n_out):
        layer, exact = layers[i], round(densities[i] * layers[i].fan_in, 9)
        nearest = round(exact + missing / layer.n_out)
        found[i] = max(min(nearest, math.ceil(exact)), math.floor(exact), int(exact > 0))
        missing += (exact - found[i]) * layer.n_out
    return found


def draw_rows(layer: Layer, fan_in: int, random: Random) -> Tensor:
    """Draw a mask with `fan_in` weights for each output channel, uniformly and independently of other channels."""
    kept = torch.from_numpy(choose(layer.n_out, layer.fan_in, fan_in, random))
    return layer.from_rows(kept.reshape(layer.rows_shape))


def move_in_rows(mask: Tensor, layer: Layer, density: float, random: Random) -> tuple[Tensor, Counts]:
    """Give every input channel an edge, by moving weights within their output channels.

    If the weights of a layer are fewer than its input channels, every output channel first gets the same number of
    further weights, the fewest that suffice; they are counted as added.

    Args:
        mask: a mask with the same number of weights in each row.
        layer: the layer.
        density: density at which the mask was drawn; a layer of density 0 is not repaired.
        random: the random number generator.
    """
    _, counts = none(mask, layer, density, random)
    if density == 0:
        return mask, counts
    kernels = Kernels(mask, layer)
    rows, columns = kernels.rows_per_group, kernels.columns_per_group
    wanting = max(0, math.ceil(columns / rows) - counts.drawn // layer.n_out)
    for row in range(layer.n_out) if wanting else ():
        for place in random.choice(np.flatnonzero(~kernels.kept[row].reshape(-1)), wanting, replace=False):
            kernels.set(row, *divmod(int(place), kernels.kept.shape[2]), True)
    empty = np.flatnonzero(kernels.column_degree == 0)
    for column in empty.tolist():
        move_to(kernels, column, random)
    return kernels.mask(layer), replace(counts, added_out=wanting * layer.n_out, moved_out=len(empty))


def choose(rows: int, width: int, count: int, random: Random) -> np.ndarray:
    """Draw a boolean matrix [rows, width] with `count` entries in each row, uniform among all such rows."""
    kept = np.zeros((rows, width), dtype=bool)
    if count:
        places = random.random((rows, width)).argpartition(count - 1, axis=1)[:, :count]
        np.put_along_axis(kept, places, True, axis=1)
    return kept


def move_to(kernels: Kernels, column: int, random: Random, among: slice = slice(None)) -> bool:
    """Move a weight of a random row to an empty column, from one that keeps an edge; return whether there was one.

    Args:
        kernels: the mask; it changes in place.
        column: number of the column.
        random: the random number generator.
        among: positions, within their group, of the columns that the weight may come from. If they are not all, the
            weight keeps its position in the kernel.
    """
    i, rows = column % kernels.columns_per_group, kernels.rows_of(column)
    degree = kernels.column_degree.reshape(-1, kernels.columns_per_group)[rows.start // kernels.rows_per_group]
    allowed = np.zeros(kernels.columns_per_group, dtype=bool)
    allowed[among] = True
    for row in random.permutation(np.arange(rows.start, rows.stop)).tolist():
        removable = allowed & ((kernels.weights[row] > 1) | (degree > 1))
        spare = np.argwhere(kernels.kept[row] & removable[:, None])
        if len(spare):
            where, k = spare[random.integers(len(spare))].tolist()
            kernels.set(row, where, k, False)
            kernels.set(row, i, int(random.integers(kernels.kept.shape[2])) if among == slice(None) else k, True)
            return True
    return False
