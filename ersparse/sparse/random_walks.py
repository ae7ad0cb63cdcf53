"""Random walks over the channel graph that prefer large weights (PHEW, Patil & Dovrolis 2021, section 4).

A walk that comes to a layer takes one of the weights of its channel, with a probability in proportion to their
magnitudes; where the graph branches, at sums and products, it takes each branch with the same probability. Many walks
are made at once, by counts: those at a channel divide over its weights as independent walks do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ersparse.sparse.mask import Masks
from ersparse.sparse.reachability import ChannelOp
from ersparse.sparse.scores import ScoreError

Array = np.ndarray[Any, Any]


class RandomWalks:
    """Random walks over the channel graph of a network.

    Args:
        graph: the channel graph.
        weights: the weights by layer name, on the CPU; only their magnitudes matter.

    Attributes:
        passed: number of walks that went through each weight, by layer name, in the shapes of the weights.
    """

    def __init__(self, graph: list[ChannelOp], weights: Mapping[str, Tensor]) -> None:
        self.graph = graph
        self.sizes = {name: weight.detach().abs().double().contiguous() for name, weight in weights.items()}
        self.passed = {name: torch.zeros(weight.shape, dtype=torch.int64) for name, weight in weights.items()}
        self.sums: dict[tuple[str, bool], Array] = {}
        self.branches = self._branches()

    def backward(self, number: int, random: np.random.Generator) -> None:
        """Make walks from outputs, chosen uniformly, to the input."""
        walks = np.zeros(self.graph[-1].start, dtype=np.int64)
        ends = _channels(self.graph[-1].reads[0])
        np.add.at(walks, ends, random.multinomial(number, np.full(len(ends), 1 / len(ends))))
        for op in reversed(self.graph[:-1]):
            made = walks[op.start : op.start + op.count]
            if op.kind == "layer" and made.any():
                for copy, there in enumerate(made.reshape(len(op.reads[0]), -1)):
                    np.add.at(walks, _channels(op.reads[0][copy]), self._through(op, there, random, inputs=True))
            elif op.kind in ("any", "products") and made.any():
                terms = np.concatenate([read.numpy() >> 1 for read in op.reads], axis=1)
                taken = _divide(made, (terms > 0).astype(float), random)
                np.add.at(walks, terms, taken)

    def forward(self, number: int, random: np.random.Generator) -> None:
        """Make walks from inputs, chosen uniformly, to the outputs."""
        coming = [[np.zeros(read.shape, dtype=np.int64) for read in op.reads] for op in self.graph]
        for index, op in enumerate(self.graph[:-1]):
            made = self._made(op, coming[index], number, random)
            for i in np.flatnonzero(made):
                ways = self.branches.get(op.start + int(i), [])
                taken = random.multinomial(made[i], np.full(len(ways), 1 / len(ways))) if ways else ()
                for (later, read, place), walks in zip(ways, taken, strict=True):
                    coming[later][read].reshape(-1)[place] += walks

    def _made(self, op: ChannelOp, coming: list[Array], number: int, random: np.random.Generator) -> Array:
        """Return the number of walks at each channel that an operation makes."""
        if op.kind == "input":
            return random.multinomial(number, np.full(op.count, 1 / op.count))
        if op.kind == "layer":
            return np.concatenate([self._through(op, there, random, inputs=False) for there in coming[0]])
        total: Array = sum(read.sum(1) for read in coming)  # type: ignore[assignment]
        return total

    def _through(self, op: ChannelOp, walks: Array, random: np.random.Generator, inputs: bool) -> Array:
        """Take walks at the outputs of a layer through its weights to its inputs, or the other way."""
        assert op.kernels is not None
        groups, n_out, n_in, *kernel = op.kernels.size
        from_, to = (n_out, n_in) if inputs else (n_in, n_out)
        sums = self._sums(op, inputs)
        columns = (len(sums) - 1) // len(walks)
        start, total = sums[:-1:columns], np.diff(sums[::columns])
        walks = np.where(total > 0, walks, 0)  # those at a channel without a weight end
        if walks.sum() > len(sums):  # many walks: their numbers, weight by weight
            sizes = np.diff(sums).reshape(len(walks), columns)
            taken = _divide(walks, sizes, random).reshape(-1)
            weights = np.flatnonzero(taken)
            times = taken[weights]
        else:
            row = np.repeat(np.arange(len(walks)), walks)
            at = start[row] + random.random(len(row)) * total[row]
            last = np.minimum(np.searchsorted(sums, at, side="right") - 1, (row + 1) * columns - 1)
            weights, times = np.unique(last, return_counts=True)
        group, first, second, *place = np.unravel_index(weights, (groups, from_, to, *kernel))
        pair = (first, second) if inputs else (second, first)
        op.kernels.of(self.passed[op.layer]).numpy()[group, *pair, *place] += times
        return np.bincount(group * to + second, times, groups * to).astype(np.int64)

    def _sums(self, op: ChannelOp, inputs: bool) -> Array:
        """Return the cumulative sums of the magnitudes of a layer, from 0, with rows of outputs or of inputs."""
        if (found := self.sums.get((op.layer, inputs))) is None:
            assert op.kernels is not None
            sizes = op.kernels.of(self.sizes[op.layer])
            flat = (sizes if inputs else sizes.transpose(1, 2)).reshape(-1).numpy()
            found = self.sums[op.layer, inputs] = np.concatenate([[0.0], flat.cumsum()])
        return found

    def _branches(self) -> dict[int, list[tuple[int, int, int]]]:
        """Return where each channel is read: operation, which of its reads, and position in it."""
        found: dict[int, list[tuple[int, int, int]]] = {}
        for index, op in enumerate(self.graph):
            for which, read in enumerate(op.reads):
                for place, channel in enumerate(_channels(read).tolist()):
                    if channel:
                        found.setdefault(channel, []).append((index, which, place))
        return found


def walked_masks(walks: RandomWalks, names: Sequence[str], count: int, random: np.random.Generator) -> Masks:
    """Return masks of exactly `count` weights of the named layers that walks have taken.

    Walks are made in batches, alternately in both directions. A batch that takes too many weights is replaced by half
    of it. Of a single walk that does, only the first weights are kept.

    Raises:
        ScoreError: after 2^40 walks there are still too few weights, because no path leads through the others.
    """
    number, batches, grows, passed = 1, 0, True, walks.passed
    while True:
        before = {name: passed[name].clone() for name in passed}
        (walks.forward if batches % 2 == 0 else walks.backward)(number, random)
        found = sum(int((passed[name] > 0).sum()) for name in names)
        if found >= count and (number == 1 or found == count):
            return _first(passed, before, names, found - count)
        if found > count:
            for name, earlier in before.items():
                passed[name].copy_(earlier)
            number, grows = number // 2, False
            continue
        batches += 1
        number *= 2 if grows and batches % 2 == 0 else 1
        if number > 2**40:
            raise ScoreError(f"walks reach {found:,} weights, {count:,} are to be kept")


def _first(passed: Masks, before: Masks, names: Sequence[str], surplus: int) -> Masks:
    """Return the masks of the weights that were passed, without `surplus` of those of the last walk."""
    masks = {name: passed[name] > 0 for name in names}
    for name in reversed(names):
        new = (masks[name] & (before[name] == 0)).reshape(-1).nonzero()[:, 0]
        masks[name].view(-1)[new[: min(surplus, len(new))]] = False
        surplus -= min(surplus, len(new))
    return masks


def _channels(labels: Tensor) -> Array:
    channels: Array = labels.reshape(-1).numpy() >> 1
    return channels


def _divide(walks: Array, sizes: Array, random: np.random.Generator) -> Array:
    """Divide the walks of each row over its columns, in proportion to `sizes`; those of a row of zeros end.

    Args:
        walks: number of walks, [rows].
        sizes: proportions, [rows, columns].
        random: the random number generator.
    """
    taken, total = np.zeros(sizes.shape, dtype=np.int64), sizes.sum(1)
    rows = np.flatnonzero((walks > 0) & (total > 0))
    if len(rows):
        taken[rows] = random.multinomial(walks[rows], sizes[rows] / total[rows, None])
    return taken
