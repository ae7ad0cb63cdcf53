"""Edge-popup inside an ER network: a supermask selected by trained scores (Ramanujan et al. 2020; section 2.1).

Each weight has a score. The forward pass multiplies the weights by a hard {0, 1} mask, which is 1 for the k weights of
the ER network with the largest scores. The backward pass uses a straight-through estimator: the gradient passes the
mask as if the mask were the score.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ersparse.sparse.layers import Layer


def counts(layers: Sequence[Layer], density: float, present: Sequence[int], least: int = 0) -> list[int]:
    """Return how many weights each layer keeps: round(density N_l), clipped to [least, present].

    Args:
        layers: the layers; N_l is the size of the dense layer.
        density: density of the ticket, relative to the dense network.
        present: weights of the ER network in each layer.
        least: number of weights that each layer keeps at least.
    """
    return [min(max(round(density * layer.size), least), there) for layer, there in zip(layers, present, strict=True)]


def exclusion_bias(allowed: Tensor) -> Tensor:
    """Return a bias for scores that excludes weights from selection: 0 where `allowed` is True, -inf elsewhere.

    The bias is added in every training step; an addition is vectorised, a selection by a boolean mask is not.
    """
    return torch.zeros_like(allowed, dtype=torch.float).masked_fill_(~allowed, -math.inf)


def ranking(scores: Tensor, bias: Tensor, signed: bool) -> Tensor:
    """Return the values by which weights are ranked: |score|, or the score if `signed`, plus the exclusion bias."""
    return scores.detach() + bias if signed else scores.detach().abs().add_(bias)


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, scores: Tensor, weight: Tensor, mask: Tensor, signed: bool) -> Tensor:
        ctx.save_for_backward(scores, weight)
        ctx.signed = signed
        return weight * mask.view(torch.uint8)  # CPU kernels are vectorised for uint8, but not for bool

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        scores, weight = ctx.saved_tensors
        if ctx.signed:
            return gradients[0] * weight, None, None, None
        return scores.sign().mul_(weight).mul_(gradients[0]), None, None, None


def masked(scores: Tensor, weight: Tensor, mask: Tensor, signed: bool) -> Tensor:
    """Return `weight * mask`, with a straight-through gradient to the scores (Ramanujan et al. 2020, section 3).

    With mask m, weight w and score s: dL/d|s| = dL/d(w m) w, hence dL/ds = dL/d(w m) w sign(s). Without the factor
    sign(s), training fails silently: scores that are negative move in the wrong direction.

    Args:
        scores: scores of the layer; they receive the gradient.
        weight: weights of the ER network, zero where its mask is False, so that no score there receives a gradient.
        mask: the ticket's boolean mask.
        signed: whether weights are ranked by the score itself; the factor sign(s) is then left out.
    """
    result: Tensor = _StraightThrough.apply(scores, weight, mask, signed)  # type: ignore[no-untyped-call]
    return result
