"""Permutations of the channels of one network that bring its weights nearest to those of another.

Used to match the mask of a ticket to another initialisation (Adnan et al. 2025): a mask that was found with one network
fits another better if its channels are permuted to those of the other network that they correspond to.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from ersparse.sparse.channel_axes import Axes, Part, channel_axes
from ersparse.sparse.mask import Masks
from ersparse.sparse.reachability import ChannelOp
from ersparse.sparse.rng import generator

Permutations = dict[int, Tensor]  # by axis: for each channel of the result, that channel of the original
ROUNDS = 100  # the most rounds of matching; a few are enough
GAIN = 1e-9  # relative improvement of the similarity of an axis below which its permutation stays


def matched_masks(
    masks: Mapping[str, Tensor],
    weights: Mapping[str, Tensor],
    others: Mapping[str, Tensor],
    graph: list[ChannelOp],
    seed: int,
) -> Masks:
    """Return masks permuted by the permutation that matches `weights` to `others`; counts of layers stay as they are.

    Args:
        masks: masks by layer name.
        weights: weights of the network that the masks belong to, by name.
        others: weights of the network that they are matched to.
        graph: the channel graph of both.
        seed: seed of the order in which axes are matched.
    """
    named = {op.layer for op in graph} & weights.keys() & others.keys()
    axes = channel_axes(graph, {name: weights[name].numel() for name in named})
    found = match(weights, others, axes, seed)
    return {name: mask.bool() for name, mask in permuted(masks, axes, found).items()}


def match(weights: Mapping[str, Tensor], others: Mapping[str, Tensor], axes: Axes, seed: int) -> Permutations:
    """Return permutations π that increase Σ ⟨others, π(weights)⟩ until no single one of them can increase it further.

    Each step solves a linear assignment for one axis, with the others held fixed, in a random order (weight matching,
    algorithm 1 of Ainsworth et al. 2023). They start from permutations that are found along the network, from what is
    read to what is made, so that a permuted copy is recognised exactly.

    Args:
        weights: weights of the network whose channels are permuted, by name.
        others: weights of the other network.
        axes: the axes of both.
        seed: seed of the order of axes.
    """
    pairs = {part: (_matrix(weights, part), _matrix(others, part)) for part in axes.rows}
    found: Permutations = {}
    for axis in axes.sizes:
        known = {
            p: pair for p, pair in pairs.items() if axis in axes.rows[p] and axes.columns[p].keys() <= found.keys()
        }
        found[axis] = _assigned(_similarity(axis, known, axes, found))
    random = generator(seed, "matching")
    for _ in range(ROUNDS):
        changed = [_improve(int(axis), pairs, axes, found) for axis in random.permutation(list(axes.sizes))]
        if not any(changed):
            break
    return found


def permuted(tensors: Mapping[str, Tensor], axes: Axes, permutations: Permutations) -> dict[str, Tensor]:
    """Return weights or masks of a network whose channels are permuted; what has no axis stays as it is."""
    result = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    for part in axes.rows:
        if part.layer in tensors:
            part.matrix(result[part.layer]).copy_(_permuted(_matrix(tensors, part), part, axes, permutations))
    return result


def _improve(axis: int, pairs: Mapping[Part, tuple[Tensor, Tensor]], axes: Axes, found: Permutations) -> bool:
    """Solve the assignment of one axis, and return whether it is better than the one that was found before."""
    similarity = _similarity(axis, pairs, axes, found)
    new = _assigned(similarity)
    gain = similarity.gather(1, new[:, None]).sum() - similarity.gather(1, found[axis][:, None]).sum()
    if better := bool(gain > GAIN * similarity.abs().sum() / len(new)):
        found[axis] = new
    return better


def _similarity(axis: int, pairs: Mapping[Part, tuple[Tensor, Tensor]], axes: Axes, found: Permutations) -> Tensor:
    """Return the inner products [channels of the other network, channels] of all weights of a channel."""
    total = torch.zeros(axes.sizes[axis], axes.sizes[axis], dtype=torch.float64)
    for part, (own, other) in pairs.items():
        for dim, positions in _positions(axis, part, axes):
            aligned = _along(own, 1 - dim, (axes.rows, axes.columns)[1 - dim][part], found)
            first, second = (_by_channel(matrix, dim, positions) for matrix in (other, aligned))
            total += first @ second.T
    return total


def _positions(axis: int, part: Part, axes: Axes) -> Iterator[tuple[int, Tensor]]:
    """Yield the dimensions of a weight that the axis permutes, with the positions of its channels."""
    for dim, places in enumerate((axes.rows, axes.columns)):
        if axis in places[part]:
            yield dim, places[part][axis]


def _by_channel(matrix: Tensor, dim: int, positions: Tensor) -> Tensor:
    """Return the weights [channels, weights of a channel] of the channels at these positions."""
    return matrix.movedim(dim, 0)[positions].flatten(1)


def _permuted(matrix: Tensor, part: Part, axes: Axes, permutations: Permutations) -> Tensor:
    for dim, places in enumerate((axes.rows, axes.columns)):
        matrix = _along(matrix, dim, places[part], permutations)
    return matrix


def _along(matrix: Tensor, dim: int, places: Mapping[int, Tensor], permutations: Permutations) -> Tensor:
    """Permute one dimension of a matrix by the axes whose channels lie there."""
    order = torch.arange(matrix.shape[dim])
    for axis, positions in places.items():
        if axis in permutations:
            order[positions] = positions[permutations[axis]]
    return matrix.index_select(dim, order)


def _assigned(similarity: Tensor) -> Tensor:
    """Return for each row the column of the best assignment."""
    return torch.from_numpy(linear_sum_assignment(similarity.numpy(), maximize=True)[1])


def _matrix(weights: Mapping[str, Tensor], part: Part) -> Tensor:
    return part.matrix(weights[part.layer].detach().cpu().double().contiguous())
