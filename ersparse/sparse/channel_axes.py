"""Axes of channels: which channels of a network can be permuted without a change of its function.

The hidden units of a layer can be permuted if the inputs of the layers that read them are permuted as well (Ainsworth
et al. 2023, section 2). Terms of a sum, such as the blocks of a residual stream, share one permutation. Axes follow
from the channel graph; where it mixes channels in a way that has no such symmetry (grouped convolutions but depthwise
ones, attention heads, padded shortcuts), and at inputs and outputs, channels stay in place.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from ersparse.sparse.reachability import ChannelOp, Kernels

IN_PLACE = 0  # the axis of channels that are not permuted


class Part(NamedTuple):
    """A layer, or a part of its weight that is a layer of its own in the channel graph."""

    layer: str
    kernels: Kernels

    def matrix(self, weight: Tensor) -> Tensor:
        """Return the kernels of a contiguous weight as a view [rows, columns, *kernel]; depthwise: one column."""
        view = self.kernels.of(weight)
        return view[0] if self.kernels.size[0] == 1 else view[:, 0]


@dataclass(frozen=True)
class Axes:
    """The axes along which the channels of a network can be permuted.

    Attributes:
        sizes: the number of channels of each axis, in the order of the network.
        rows: for each part of a weight, by axis the rows [channels, rows of a channel] that it permutes.
        columns: likewise for columns.
    """

    sizes: dict[int, int]
    rows: dict[Part, dict[int, Tensor]]
    columns: dict[Part, dict[int, Tensor]]


def channel_axes(graph: list[ChannelOp], sizes: Mapping[str, int]) -> Axes:
    """Return the axes of a network.

    Args:
        graph: its channel graph.
        sizes: number of elements of each weight; inputs and outputs of layers that are not among them stay in place.
    """
    tracer = _AxisTracer(graph[-1].start, sizes)
    for op in graph:
        tracer.add(op)
    return tracer.axes()


class _AxisTracer:
    """Follows axes through a channel graph.

    Attributes:
        parents: disjoint sets of axes that are permuted together; the root of those in place is `IN_PLACE`.
        lengths: number of channels of each axis.
        axis, index: for each channel of the graph its axis and its place there.
        reads: for each part of a weight the channels [times, columns] that it reads.
        made: the axis that the rows of a part make; None if they are those of its inputs (depthwise convolutions).
    """

    def __init__(self, channels: int, sizes: Mapping[str, int]) -> None:
        self.sizes, self.parents, self.lengths = sizes, [IN_PLACE], [0]
        self.axis, self.index = torch.zeros(2, channels, dtype=torch.long)
        self.reads: dict[Part, Tensor] = {}
        self.made: dict[Part, int | None] = {}

    def add(self, op: ChannelOp) -> None:
        """Follow the next operation."""
        made = slice(op.start, op.start + op.count)
        if op.kind == "layer":
            self._add_layer(op, made)
        elif op.kind == "output":
            self._fix(self.axis[op.reads[0] >> 1])
        elif op.kind != "input":
            self.axis[made], self.index[made] = self._aligned(torch.cat(op.reads, 1) >> 1)

    def axes(self) -> Axes:
        """Return what was found."""
        for part, read in self.reads.items():
            self._aligned(read.T)
            if sum(prod(other.kernels.size) for other in self.reads if other.layer == part.layer) != self._size(part):
                self._fix(self.axis[read])
                self._fix(torch.tensor([self.made[part] or IN_PLACE]))
        rows: dict[Part, dict[int, Tensor]] = {}
        columns: dict[Part, dict[int, Tensor]] = {}
        for part, read in self.reads.items():
            axis, index = self._first(read.T)
            own = self.made[part]
            places = self._places(axis, index)
            rows[part] = places if own is None else self._places(*self._whole(own))
            columns[part] = {} if own is None else places
        used = [axis for places in rows.values() for axis in places]
        return Axes({axis: self.lengths[axis] for axis in dict.fromkeys(used)}, rows, columns)

    def _add_layer(self, op: ChannelOp, made: slice) -> None:
        assert op.kernels is not None
        part, read = Part(op.layer, op.kernels), op.reads[0] >> 1
        groups, n_out, n_in = op.kernels.size[:3]
        if op.layer not in self.sizes or groups > 1 < max(n_out, n_in):
            self._fix(self.axis[read])
            return
        self.reads[part] = torch.cat([self.reads[part], read]) if part in self.reads else read
        if groups > 1:
            self.made[part] = None
            axis, index = self.axis[read].reshape(-1), self.index[read].reshape(-1)
        else:
            if part not in self.made:
                self.made[part] = self._new(n_out)
            axis, index = (values.repeat(len(read)) for values in self._whole(self.made[part] or IN_PLACE))
        self.axis[made], self.index[made] = axis, index

    def _aligned(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Join the axes of the channels in each row; those whose places differ stay in place. Zeros are left out."""
        axis, index = self._first(rows)
        known = rows > 0
        same = (self.index[rows] == index[:, None]).long()
        pairs = torch.stack([axis[:, None].expand_as(rows), self.axis[rows], same], -1)[known].unique(dim=0)  # type: ignore[no-untyped-call]
        for first, second, is_same in pairs.tolist():
            self._join(first, second if is_same else IN_PLACE)
            self._join(second, first if is_same else IN_PLACE)
        self._places(axis, index)
        return axis, index

    def _first(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return axis and place of the first channel in each row that is not zero."""
        first = rows.gather(1, (rows > 0).long().argmax(1, keepdim=True))[:, 0]
        return self.axis[first], self.index[first]

    def _places(self, axis: Tensor, index: Tensor) -> dict[int, Tensor]:
        """Return by axis the positions [channels, …] of each channel; an axis with uneven numbers stays in place."""
        roots = torch.tensor([self._root(a) for a in range(len(self.parents))])[axis]
        found: dict[int, Tensor] = {}
        for root in roots.unique().tolist():  # type: ignore[no-untyped-call]
            at = (roots == root).nonzero()[:, 0]
            counts = index[at].bincount(minlength=self.lengths[root])
            if root != IN_PLACE and bool((counts == counts[0]).all()):
                found[root] = at[index[at].argsort(stable=True)].reshape(self.lengths[root], -1)
            else:
                self._join(root, IN_PLACE)
        return found

    def _whole(self, axis: int) -> tuple[Tensor, Tensor]:
        """Return axis and place of the channels of an axis."""
        return torch.full((self.lengths[axis],), axis), torch.arange(self.lengths[axis])

    def _size(self, part: Part) -> int:
        return self.sizes[part.layer]

    def _new(self, length: int) -> int:
        self.parents.append(len(self.parents))
        self.lengths.append(length)
        return len(self.parents) - 1

    def _root(self, axis: int) -> int:
        while self.parents[axis] != axis:
            axis = self.parents[axis]
        return axis

    def _join(self, first: int, second: int) -> None:
        roots = sorted((self._root(first), self._root(second)))
        self.parents[roots[1]] = roots[0]
        if self.lengths[roots[0]] != self.lengths[roots[1]]:
            self.parents[roots[0]] = IN_PLACE

    def _fix(self, axes: Tensor) -> None:
        for axis in axes.unique().tolist():  # type: ignore[no-untyped-call]
            self._join(axis, IN_PLACE)
