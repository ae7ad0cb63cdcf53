"""Rewiring a sparse network as it trains: drop weights, grow as many elsewhere in the same layer.

RigL grows where the dense gradient is largest (Evci et al. 2020), SET at random (Mocanu et al. 2018). A weight is
active where its mask is true, also where its value is zero.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ersparse.sparse.mask import generator
from ersparse.sparse.supermask import top


@dataclass(frozen=True)
class Change:
    """What an update does to one layer; both masks have its shape, and as many true places.

    Attributes:
        removed: active before, not after.
        grown: active after, not before. A weight that is dropped and grown back at once is in neither.
    """

    removed: Tensor
    grown: Tensor


def fraction(start: float, end: float, part: float, decay: str) -> float:
    """The share of a layer's active weights that an update drops.

    Args:
        start, end: at the start of training, and when rewiring stops.
        part: of the time between the two that has gone, in [0, 1].
        decay: "constant" (`start` throughout), "linear", or "cosine", half a period: with `end` 0 it is RigL's.
    """
    left = {"constant": 1.0, "linear": 1 - part, "cosine": (1 + math.cos(math.pi * part)) / 2}[decay]
    return end + (start - end) * left


def magnitude(values: Tensor) -> Tensor:
    """|x|: of weights, the smallest are dropped; of dense gradients, removed weights included, the largest are grown.

    NaN counts as 0, so that counts stay exact where training has diverged.
    """
    return values.detach().abs().nan_to_num(nan=0.0)


def random_scores(shape: tuple[int, ...], seed: int, name: str, step: int) -> Tensor:
    """Uniform on [0, 1), by (seed, name, step) alone: the same on every rank and after a resume."""
    return torch.from_numpy(generator(seed, name, "grow", str(step)).random(shape))


def exchanged(active: int, size: int, share: float, regrow: bool) -> int:
    """How many of a layer's `active` weights are dropped, and grown: the share, truncated, as in RigL's own code.

    A full layer has nowhere to grow. Where dropped weights may not come back, no more can grow than were inactive.
    """
    if active == size:
        return 0
    count = int(share * active)
    return count if regrow else min(count, size - active)


def update(mask: Tensor, drop: Tensor, grow: Tensor, share: float, regrow: bool = True) -> Change:
    """One update of one layer. Under ties the weights with the lowest index are kept, and grown.

    Args:
        mask: the active weights.
        drop: scores of which the smallest active ones go, NaN-free, on the device of `mask`, in its shape.
        grow: scores of which the largest come, likewise.
        share: of the active weights that are dropped.
        regrow: whether a weight that is dropped may be grown back at once; it is then left as it is, value and all.
    """
    active = int(mask.sum())
    count = exchanged(active, mask.numel(), share, regrow)
    kept, _ = top(torch.where(mask, drop, -math.inf), active - count)
    free = ~kept if regrow else ~mask
    grown, _ = top(torch.where(free, grow, -math.inf), count)
    after = kept | grown
    return Change(mask & ~after, after & ~mask)


@torch.no_grad()
def apply(change: Change, mask: Tensor, weight: Tensor, state: Mapping[str, Any]) -> None:
    """Makes the change, in place: removed and grown weights are 0, and what the optimizer knows of grown ones is 0.

    Without the latter a grown weight would start with the momentum that dense gradients gave it while it was inactive.

    Args:
        state: of `weight` in its optimizer; tensors of its shape belong to single weights (momentum, Adam's moments),
            others (Adam's count of steps) are left alone. Empty before the first step.
    """
    mask.logical_and_(~change.removed).logical_or_(change.grown)
    weight.masked_fill_(change.removed | change.grown, 0.0)
    for value in state.values():
        if isinstance(value, Tensor) and value.shape == weight.shape:
            value.masked_fill_(change.grown, 0.0)
