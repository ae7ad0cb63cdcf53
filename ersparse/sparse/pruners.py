"""Pruners at initialisation: (network, number of weights, options) -> masks of exactly so many weights.

The keyword arguments with a default are the keys of `sparsity.` that a pruner takes. `invert` keeps the smallest scores
instead of the largest, as a control (Frankle et al. 2021); `among` names the layers that are pruned.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import nn

from ersparse.sparse import scores as S
from ersparse.sparse.channel_graph import GraphError, trace
from ersparse.sparse.layers import prunable_weights
from ersparse.sparse.mask import Masks
from ersparse.sparse.random_walks import RandomWalks, walked_masks
from ersparse.sparse.rng import generator


class Examples(Protocol):
    """Labelled images for scoring, as batches of images [B, C, H, W] and labels [B]."""

    def some(self, count: int) -> S.Batches:
        """Return `count` images of the training set."""

    def of_each_class(self, count: int) -> S.Batches:
        """Return `count` images of each class, in batches with equal class frequencies."""


def snip(
    network: nn.Module,
    count: int,
    examples: Examples,
    images: int = 128,
    score_dtype: str = "float32",
    invert: bool = False,
    among: S.Names = None,
) -> Masks:
    """Return masks of the largest |theta dL/dtheta| on one batch (SNIP, Lee et al. 2019).

    Args:
        network: the network to prune.
        count: number of weights to keep.
        examples: the source of labelled images.
        images: number of images to score with.
        score_dtype: "float32" or "float64".
        invert: keep the smallest scores.
        among: names of the layers that are pruned; None prunes all.

    Raises:
        ScoreError: a score is not finite, or `count` is out of range.
    """
    return _masks_of_largest(S.snip(*_cast(score_dtype, network, examples.some(images)), among), count, invert)


def grasp(
    network: nn.Module,
    count: int,
    examples: Examples,
    images_per_class: int = 25,
    temperature: float = 200.0,
    fresh_classifier: bool = False,
    score_dtype: str = "float32",
    seed: int = 0,
    invert: bool = False,
    among: S.Names = None,
) -> Masks:
    """Return masks of the largest theta * Hg, the weights that contribute most to gradient flow (Wang et al. 2020).

    Args:
        network: the network to prune.
        count: number of weights to keep.
        examples: the source of labelled images.
        images_per_class: number of images of each class to score with.
        temperature: divisor of the logits.
        fresh_classifier: score with linear layers drawn anew from `seed`, Xavier normal, as the reference code does.
        score_dtype: "float32" or "float64".
        seed: seed of the fresh classifier.
        invert: keep the smallest scores.
        among: names of the layers that are pruned; None prunes all.

    Raises:
        ScoreError: a score is not finite, or `count` is out of range.
    """
    network, batches = _cast(score_dtype, network, examples.of_each_class(images_per_class))
    if fresh_classifier:
        _draw_linear_layers(network, seed)
    return _masks_of_largest(S.grasp(network, batches, temperature, among), count, invert)


def synflow(
    network: nn.Module,
    count: int,
    shape: Sequence[int],
    rounds: int = 100,
    invert: bool = False,
    among: S.Names = None,
) -> Masks:
    """Return the masks of iterative SynFlow pruning at initialisation, without data (Tanaka et al. 2020).

    Args:
        network: the network to prune.
        count: number of weights to keep.
        shape: shape of an image, (C, H, W).
        rounds: number of rounds of scoring and pruning.
        invert: keep the smallest scores of each round.
        among: names of the layers that are pruned; None prunes all.

    Raises:
        ScoreError: a score is not finite, or `count` is out of range.
    """
    return S.synflow_masks(network, shape, count, rounds, invert=invert, among=among)


def magnitude(network: nn.Module, count: int, invert: bool = False, among: S.Names = None) -> Masks:
    """Return masks of the largest |theta| at initialisation, in one shot.

    Args:
        network: the network to prune.
        count: number of weights to keep.
        invert: keep the smallest weights.
        among: names of the layers that are pruned; None prunes all.

    Raises:
        ScoreError: a weight is not finite, or `count` is out of range.
    """
    return _masks_of_largest(S.magnitude(network, among), count, invert)


def phew(
    network: nn.Module,
    count: int,
    shape: Sequence[int],
    seed: int = 0,
    invert: bool = False,
    among: S.Names = None,
) -> Masks:
    """Return masks of the weights that random walks take which prefer large weights, without data (PHEW).

    Half of the walks go from inputs to outputs, half the other way (Patil & Dovrolis 2021, section 4), until they have
    taken `count` different weights. Of the walk that would exceed it, only the first weights are kept.

    Args:
        network: the network to prune.
        count: number of weights to keep.
        shape: shape of an image, (C, H, W).
        seed: seed of the walks.
        invert: prefer small weights.
        among: names of the layers that are pruned; None prunes all.

    Raises:
        ScoreError: the channel graph cannot be traced, or walks do not reach as many weights.
    """
    weights = {name: held.weight.detach().cpu() for name, held in prunable_weights(network, embeddings=True).items()}
    if invert:
        weights = {name: torch.where(weight == 0, 0.0, 1 / weight.abs()) for name, weight in weights.items()}
    try:
        graph = trace(network, (2, *shape))
    except GraphError as error:
        raise S.ScoreError(str(error)) from None
    used = {op.layer for op in graph if op.kind == "layer"}
    pruned = [name for name in prunable_weights(network) if among is None or name in among]
    walks = RandomWalks(graph, {name: weights[name] for name in used})
    return walked_masks(walks, [name for name in pruned if name in used], count, generator(seed, "walks"))


def _masks_of_largest(scores: S.Scores, count: int, invert: bool) -> Masks:
    return S.largest(S.inverted(scores) if invert else scores, count)


def _cast(dtype: str, network: nn.Module, batches: S.Batches) -> tuple[nn.Module, S.Batches]:
    """Return a copy of the network, and the images, in `dtype`."""
    kind = getattr(torch, dtype)
    return copy.deepcopy(network).to(kind), [(x.to(kind), y) for x, y in batches]


@torch.no_grad()
def _draw_linear_layers(network: nn.Module, seed: int) -> None:
    random = torch.Generator().manual_seed(int(generator(seed, "classifier").integers(2**62)))
    for module in network.modules():
        if isinstance(module, nn.Linear):
            drawn = torch.empty(module.weight.shape, dtype=module.weight.dtype)  # on the CPU, as the generator
            module.weight.copy_(nn.init.xavier_normal_(drawn, generator=random))


def trained_scores(score: str, shape: Sequence[int]) -> Callable[[nn.Module], S.Scores]:
    """Return the function that scores a trained network for iterative pruning; its scores are on the CPU.

    Args:
        score: "magnitude" or "synflow".
        shape: shape of an image, (C, H, W), for SynFlow.
    """

    def scores_of(network: nn.Module) -> S.Scores:
        network = copy.deepcopy(network).cpu()
        return S.magnitude(network) if score == "magnitude" else S.synflow(network, shape)

    return scores_of
