"""Channel degrees of a layer.

In the channel graph of one layer, an edge joins input channel i and output channel o if the kernel (o, i) keeps at
least one weight. Rows are output channels, columns are input channels. The in-degree of an output channel is that of
its row, the out-degree of an input channel that of its column.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ersparse.sparse.layers import Layer


class Kernels:
    """A mask as a matrix of kernels [rows, columns per group, weights], with degrees that follow each change.

    Columns are numbered through all groups.

    Attributes:
        kept: the mask, [n_out, n_in / groups, kernel size].
        weights: kept weights of each kernel, [n_out, n_in / groups].
        row_degree: in-degree of each output channel, [n_out].
        column_degree: out-degree of each input channel, [n_in].
    """

    def __init__(self, mask: Tensor, layer: Layer) -> None:
        columns = layer.n_in // layer.groups
        self.kept = layer.to_rows(mask).numpy().reshape(layer.n_out, columns, -1).copy()
        self.columns_per_group, self.rows_per_group = columns, layer.n_out // layer.groups
        self.weights = self.kept.sum(2, dtype=np.int64)
        edges = self.weights > 0
        self.row_degree = edges.sum(1)
        by_group = edges.reshape(layer.groups, self.rows_per_group, self.columns_per_group)
        self.column_degree = by_group.sum(1).reshape(-1)

    def column(self, row: int, i: int) -> int:
        """Return the number of the column at position `i` of a row."""
        return row // self.rows_per_group * self.columns_per_group + i

    def rows_of(self, column: int) -> slice:
        """Return the rows that a column can feed: those of its group."""
        start = column // self.columns_per_group * self.rows_per_group
        return slice(start, start + self.rows_per_group)

    def set(self, row: int, i: int, k: int, keep: bool) -> None:
        """Add or remove one weight and update the degrees; the weight must be in the opposite state before."""
        by = 1 if keep else -1
        edge_before = self.weights[row, i] > 0
        self.kept[row, i, k] = keep
        self.weights[row, i] += by
        if edge_before != (self.weights[row, i] > 0):
            self.row_degree[row] += by
            self.column_degree[self.column(row, i)] += by

    def removable(self, row: int, i: int) -> bool:
        """Return whether both channels keep an edge if one kept weight of this kernel is removed."""
        spare = self.row_degree[row] > 1 and self.column_degree[self.column(row, i)] > 1
        return bool(self.weights[row, i] > 1 or spare)

    def mask(self, layer: Layer) -> Tensor:
        """Return the mask in the shape of the layer."""
        return layer.from_rows(torch.from_numpy(self.kept.reshape(layer.rows_shape)))


def degrees(mask: Tensor, layer: Layer) -> tuple[Tensor, Tensor]:
    """Return the in-degrees of the output channels [n_out] and the out-degrees of the input channels [n_in].

    They are computed on the device of the mask.
    """
    kernels = layer.to_rows(mask).reshape(layer.n_out, layer.n_in // layer.groups, -1)
    edges = kernels.any(2) if kernels.shape[2] > 1 else kernels[..., 0]
    by_group = edges.reshape(layer.groups, -1, edges.shape[1])
    return edges.sum(1), by_group.sum(1).reshape(-1)


def zero_degrees(mask: Tensor, layer: Layer) -> tuple[int, int]:
    """Return the number of output channels with in-degree 0, and of input channels with out-degree 0."""
    rows, columns = degrees(mask, layer)
    return int((rows == 0).sum()), int((columns == 0).sum())
