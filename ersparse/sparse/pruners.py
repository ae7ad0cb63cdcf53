"""Pruning at initialisation: a network and a number of weights in, masks of exactly so many out.

The keyword arguments with a default are the `sparsity.` keys that a pruner takes. `invert` keeps the lowest scores
instead, as a control (Frankle et al. 2021).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import nn

from ersparse.sparse import scores as S
from ersparse.sparse.mask import Masks
from ersparse.sparse.rng import generator


class Examples(Protocol):
    """Labelled images to score by, in batches of ([B, C, H, W], [B])."""

    def some(self, count: int) -> S.Batches:
        """So many of all."""

    def of_each_class(self, count: int) -> S.Batches:
        """So many of each class, every batch as balanced as the whole."""


def snip(
    network: nn.Module,
    count: int,
    examples: Examples,
    images: int = 128,
    score_dtype: str = "float32",
    invert: bool = False,
) -> Masks:
    """The largest |theta dL/dtheta| on one batch (Lee et al. 2019)."""
    return _largest(S.snip(*_in(score_dtype, network, examples.some(images))), count, invert)


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
) -> Masks:
    """The largest theta * Hg, without which gradient flow would lose most (Wang et al. 2020).

    Args:
        fresh_classifier: score with linear layers drawn anew from `seed`, Xavier's normal distribution.
    """
    network, batches = _in(score_dtype, network, examples.of_each_class(images_per_class))
    if fresh_classifier:
        _draw_linear_layers(network, seed)
    return _largest(S.grasp(network, batches, temperature), count, invert)


def synflow(network: nn.Module, count: int, shape: Sequence[int], rounds: int = 100, invert: bool = False) -> Masks:
    """Rounds of scoring and pruning without data (Tanaka et al. 2020); `shape` is an image's, (C, H, W)."""
    return S.synflow_masks(network, shape, count, rounds, invert=invert)


def magnitude(network: nn.Module, count: int, invert: bool = False) -> Masks:
    """The largest |theta| as they were drawn, in one shot."""
    return _largest(S.magnitude(network), count, invert)


def _largest(scores: S.Scores, count: int, invert: bool) -> Masks:
    return S.largest(S.inverted(scores) if invert else scores, count)


def _in(dtype: str, network: nn.Module, batches: S.Batches) -> tuple[nn.Module, S.Batches]:
    """A copy of the network, and the images, in float32 or float64."""
    kind = getattr(torch, dtype)
    return copy.deepcopy(network).to(kind), [(x.to(kind), y) for x, y in batches]


@torch.no_grad()
def _draw_linear_layers(network: nn.Module, seed: int) -> None:
    random = torch.Generator().manual_seed(int(generator(seed, "classifier").integers(2**62)))
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_normal_(module.weight, generator=random)


def trained_scores(score: str, shape: Sequence[int]) -> Callable[[nn.Module], S.Scores]:
    """What trained weights are pruned by: "magnitude", or "synflow" with an image of `shape`. Scores are on the CPU."""

    def of(network: nn.Module) -> S.Scores:
        network = copy.deepcopy(network).cpu()
        return S.magnitude(network) if score == "magnitude" else S.synflow(network, shape)

    return of
