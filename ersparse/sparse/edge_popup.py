"""Edge-popup inside an ER network: which of its random weights to use (Ramanujan et al. 2020; section 3 of the paper).

Each weight has a score. The forward pass multiplies the weights by a hard {0, 1} mask, true for the k weights of the
ER network with the largest scores; the gradient passes the mask as if it were the score itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ersparse.sparse.layers import Layer


def counts(layers: Sequence[Layer], density: float, present: Sequence[int], least: int = 0) -> list[int]:
    """How many weights each layer keeps: round(density N_l), at least `least`, at most those that are `present`."""
    return [min(max(round(density * layer.size), least), there) for layer, there in zip(layers, present, strict=True)]


def barred(allowed: Tensor) -> Tensor:
    """What is added to scores before they are ranked: 0 inside the ER network, -inf outside. An addition is vectorised
    where a choice by a boolean mask is not, and this one is made in every step.
    """
    return torch.zeros_like(allowed, dtype=torch.float).masked_fill_(~allowed, -math.inf)


def rank(scores: Tensor, outside: Tensor, signed: bool) -> Tensor:
    """What weights are chosen by: |score|, or the score itself; -inf where `outside` (of `barred`) is."""
    return scores.detach() + outside if signed else scores.detach().abs().add_(outside)


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, scores: Tensor, weight: Tensor, mask: Tensor, signed: bool) -> Tensor:
        ctx.save_for_backward(scores, weight)
        ctx.signed = signed
        return weight * mask.view(torch.uint8)  # on a CPU vectorised, where booleans are not

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        scores, weight = ctx.saved_tensors
        if ctx.signed:
            return gradients[0] * weight, None, None, None
        return scores.sign().mul_(weight).mul_(gradients[0]), None, None, None


def masked(scores: Tensor, weight: Tensor, mask: Tensor, signed: bool) -> Tensor:
    """`weight * mask`, whose gradient goes straight through to the scores.

    With m the mask and w the weight, dL/d|s| = dL/d(w m) w, hence dL/ds = dL/d(w m) w sign(s): without the sign it
    trains wrongly, and silently.

    Args:
        weight: of the ER network, zero where it has none: no score there gets a gradient.
    """
    result: Tensor = _StraightThrough.apply(scores, weight, mask, signed)  # type: ignore[no-untyped-call]
    return result
