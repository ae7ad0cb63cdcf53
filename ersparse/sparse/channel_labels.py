"""The channels of a tensor as labels, one for each element, and the operations that make new channels of them.

A label is twice the number of a channel, plus one if a constant other than zero is added to it; label 0 is zero and
label 1 is a constant (`ersparse.sparse.reachability.ChannelOp`). Labels that are the same along an axis are kept as one
slice that is expanded, so that the pixels of an image take no memory and no time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ersparse.sparse.reachability import ChannelOp, Kernels

ZERO, CONSTANT = 0, 1


class Place(NamedTuple):
    """Where slices of a tensor were along one dimension.

    Attributes:
        size: how many slices there were.
        kinds: for each the index of its kind; None if they were not compared, or all differ or are the same.
        one: whether all are the same.
    """

    size: int
    kinds: Tensor | None = None
    one: bool = False


class GraphBuilder:
    """Builds a channel graph by operations on labels.

    Two rows of labels that are equal, such as those of two tokens, get the same new channels.

    Attributes:
        ops: the channel graph so far.
        count: how many channels it has.
    """

    def __init__(self) -> None:
        self.ops: list[ChannelOp] = []
        self.count = 1  # channel 0 is zero
        self.input = self._append("input", 1, ()).item()

    def sums(self, labels: Tensor, dims: Sequence[int], keepdim: bool = False) -> Tensor:
        """Return the labels of sums (or means or maxima) over `dims`."""
        dims = sorted({dim % labels.dim() for dim in dims}) if labels.dim() else []
        rest = [dim for dim in range(labels.dim()) if dim not in dims]
        (small,), places = condensed([labels])
        rows = small.permute(*rest, *dims).reshape(*[small.shape[dim] for dim in rest], -1)
        summed = rows[..., 0] if rows.shape[-1] == 1 else self._sums_of_rows(rows)
        summed = restored(summed, [places[dim] for dim in rest])
        for dim in dims if keepdim else []:
            summed = summed.unsqueeze(dim)
        return summed

    def sum_of(self, first: Tensor, second: Tensor) -> Tensor:
        """Return the labels of a sum of two tensors that can be broadcast."""
        small, places = condensed(_broadcast(first, second))
        return restored(self._sums_of_rows(torch.stack(small, -1)), places)

    def product_of(self, first: Tensor, second: Tensor) -> Tensor:
        """Return the labels of a product of two tensors that can be broadcast; a constant factor changes nothing."""
        (first, second), places = condensed(_broadcast(first, second))
        product = torch.where(first <= CONSTANT, first * second, second * first)  # right if a factor is constant
        same = (first >> 1) == (second >> 1)
        product = torch.where(same, first & second, product)
        rest = ~same & (first > CONSTANT) & (second > CONSTANT)
        if rest.any():
            pairs, place = distinct_rows(torch.stack([first[rest], second[rest]], -1))
            product[rest] = self._append("products", len(pairs), (pairs[:, :1], pairs[:, 1:]))[place]
        return restored(product, places)

    def matrix_product(self, first: Tensor, second: Tensor) -> Tensor:
        """Return the labels of a product of matrices [batch, rows, terms] and [batch, terms, columns]."""
        second = second.transpose(1, 2)
        (first, second), (batches, _, _) = condensed([first, second], dims=(0, 2))
        (first,), (_, row_places, _) = condensed([first], dims=(1,))
        (second,), (_, column_places, _) = condensed([second], dims=(1,))
        rows, row_of = distinct_rows(first.flatten(0, 1))
        columns, column_of = distinct_rows(second.flatten(0, 1))
        row_of, column_of = row_of.reshape(first.shape[:2]), column_of.reshape(second.shape[:2])
        pairs, place = (row_of[:, :, None] * len(columns) + column_of[:, None]).unique(return_inverse=True)  # type: ignore[no-untyped-call]
        reads = (rows[pairs // len(columns)], columns[pairs % len(columns)])
        made = self._append("products", len(pairs), reads)[place]
        return restored(made, [batches, row_places, column_places])

    def layer(self, labels: Tensor, name: str, kernels: Kernels) -> Tensor:
        """Return the labels [..., outputs] of a layer of labels [..., inputs], whose groups follow one another."""
        (small,), places = condensed([labels], dims=range(labels.dim() - 1))
        rows, copies = distinct_rows(small.reshape(-1, small.shape[-1]))
        n_out = kernels.size[0] * kernels.size[1]
        made = self._append("layer", len(rows) * n_out, (rows,), name, kernels).reshape(len(rows), n_out)
        return restored(made[copies].reshape(*small.shape[:-1], n_out), [*places[:-1], Place(n_out)])

    def outputs(self, labels: Sequence[Tensor]) -> None:
        """End the graph with its outputs."""
        read = torch.cat([condensed([tensor])[0][0].reshape(-1) for tensor in labels]).unique()  # type: ignore[no-untyped-call]
        self.ops.append(ChannelOp("output", self.count, 0, (read,)))

    def _sums_of_rows(self, labels: Tensor) -> Tensor:
        """Return the labels of the sums over the last dimension."""
        rows, places = distinct_rows(labels.reshape(-1, labels.shape[-1]))
        channels, constant = rows >> 1, (rows & 1).amax(1)
        highest = channels.amax(1)
        several = ((channels != highest[:, None]) & (channels > 0)).any(1)
        summed = 2 * highest
        if several.any():
            summed[several] = self._append("any", int(several.sum()), (rows[several],))
        return (summed | constant)[places].reshape(labels.shape[:-1])

    def _append(
        self,
        kind: str,
        count: int,
        reads: tuple[Tensor, ...],
        layer: str = "",
        kernels: Kernels | None = None,
    ) -> Tensor:
        """Add an operation, and return the labels of its channels."""
        self.ops.append(ChannelOp(kind, self.count, count, reads, layer, kernels))
        self.count += count
        return 2 * torch.arange(self.count - count, self.count)


def plus_constant(labels: Tensor) -> Tensor:
    """Return the labels of a tensor to which a constant is added."""
    return (_unexpanded(labels) | CONSTANT).expand(labels.shape)


def condensed(tensors: Sequence[Tensor], dims: Sequence[int] | None = None) -> tuple[list[Tensor], list[Place]]:
    """Return the slices of tensors of one shape that differ from each other, and where they were.

    Args:
        tensors: labels.
        dims: the dimensions along which slices are compared; all by default.

    Returns:
        The tensors of distinct slices, and for each dimension the argument of `restored`.
    """
    small, places = list(tensors), [Place(size) for size in tensors[0].shape]
    dims = range(small[0].dim()) if dims is None else dims
    for dim in sorted(dims, key=lambda d: (any(t.stride()[d] > 0 for t in tensors), -tensors[0].shape[d])):
        if small[0].shape[dim] == 1:
            continue
        if all(tensor.stride(dim) == 0 for tensor in small):
            small, places[dim] = [tensor.narrow(dim, 0, 1) for tensor in small], Place(places[dim].size, one=True)
            continue
        slices = [_unexpanded(tensor, dim).movedim(dim, 0).flatten(1) for tensor in small]
        first, place = _distinct(slices[0] if len(slices) == 1 else torch.cat(slices, 1))
        if len(first) < len(place):
            small = [tensor.index_select(dim, first) for tensor in small]
            places[dim] = Place(len(place), place, one=len(first) == 1)
    return small, places


def restored(labels: Tensor, places: Sequence[Place]) -> Tensor:
    """Return labels whose slices are repeated where `condensed` found them."""
    for dim, place in enumerate(places):
        if place.kinds is not None and not place.one:
            labels = labels.index_select(dim, place.kinds)
    return labels.expand([place.size if place.one else n for n, place in zip(labels.shape, places, strict=True)])


def distinct_rows(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return the distinct rows of a matrix, and the place of each row among them."""
    first, places = _distinct(rows)
    return rows[first], places


def _distinct(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return the index of a row of each kind, and the kind of each row.

    Rows are compared by a hash, and the result is checked; `torch.unique` of rows is a hundred times slower.
    """
    if len(rows) == 1:
        return torch.zeros(1, dtype=torch.long), torch.zeros(1, dtype=torch.long)
    factors = torch.randint(2**62, (rows.shape[1],), generator=torch.Generator().manual_seed(0))
    # the sums wrap around
    kinds, places = (rows * factors).sum(1).unique(return_inverse=True)  # type: ignore[no-untyped-call]
    first = torch.empty(len(kinds), dtype=torch.long).scatter_(0, places, torch.arange(len(rows)))
    if len(kinds) < len(rows) and not rows[first[places]].equal(rows):
        raise AssertionError("two rows have the same hash")
    return first, places


def _broadcast(*tensors: Tensor) -> list[Tensor]:
    return list(torch.broadcast_tensors(*tensors))  # type: ignore[no-untyped-call]


def _unexpanded(tensor: Tensor, but: int | None = None) -> Tensor:
    """Return the first slice along each dimension, `but` one, along which a tensor was expanded."""
    for dim, stride in enumerate(tensor.stride()):
        if stride == 0 and tensor.shape[dim] > 1 and dim != but:
            tensor = tensor.narrow(dim, 0, 1)
    return tensor
