"""Rewiring that keeps the number of weights in each row, such as the fan-in of each output channel (SRigL).

Masks and scores are matrices here: rows are output channels, or groups of weights of an N:M pattern.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ersparse.sparse.topk import topk_mask


def rewired_rows(mask: Tensor, drop: Tensor, grow: Tensor, count: int, active: int, targets: Tensor) -> Tensor:
    """Return the mask after an update that leaves `targets` weights in each row (Lasby et al. 2024, section 3.1).

    Of all active weights the `count` with the smallest drop scores are dropped, wherever they are. Rows that have more
    than their target drop further ones. Each row then grows those of its free weights with the largest grow scores,
    dropped ones among them, until it has its target.

    Args:
        mask: active weights, bool [rows, width].
        drop: drop scores, likewise, NaN-free.
        grow: grow scores, likewise.
        count: number of weights to drop.
        active: number of active weights.
        targets: number of weights of each row after the update, int64 [rows], at most the width.
    """
    kept, _ = topk_mask(torch.where(mask, drop, -math.inf), active - count)
    kept = kept & first_in_rows(torch.where(kept, drop, -math.inf), targets)
    return kept | first_in_rows(torch.where(kept, -math.inf, grow), targets - kept.sum(1))


def first_in_rows(scores: Tensor, counts: Tensor) -> Tensor:
    """Return a mask of the largest scores of each row, as many as `counts` says; ties go to earlier columns."""
    order = scores.argsort(dim=1, descending=True, stable=True)
    chosen = torch.arange(scores.shape[1], device=scores.device) < counts[:, None]
    return torch.zeros_like(chosen).scatter_(1, order, chosen)


def equal_targets(mask: Tensor, active: int, salient: Tensor, ablate: float) -> Tensor:
    """Return the number of weights of each row after an update: equal for all rows that are not ablated, else 0.

    A row is ablated if it has fewer salient weights than `ablate` times the mean number of weights of a row, at least
    one (Lasby et al. 2024, section 3.1, steps 3 to 5); its weights go to the other rows. As many rows stay as are
    needed to hold all weights, those with the most salient weights. The total is exact: if it is no multiple of the
    number of rows that stay, those with the most salient weights have one more.

    Args:
        mask: active weights, bool [rows, width].
        active: their number.
        salient: number of salient weights of each row, int64 [rows].
        ablate: the least part of salient weights, in [0, 1); 0 ablates nothing.
    """
    rows, width = mask.shape
    order = salient.argsort(descending=True, stable=True)
    least = max(1, int(ablate * (active / rows))) if ablate else 0
    alive = salient[order] >= least
    alive[: -(-active // width)] = True
    number, place = alive.sum(), alive.cumsum(0) - 1  # of the rows that stay; of each row among them
    targets = torch.where(alive, active // number + (place < active % number), 0)
    return torch.empty_like(targets).scatter_(0, order, targets)


def salient_weights(mask: Tensor, drop: Tensor, grow: Tensor, count: int, active: int) -> Tensor:
    """Return the number of salient weights of each row: those that are kept, and the best to grow, `count` in all."""
    kept, _ = topk_mask(torch.where(mask, drop, -math.inf), active - count)
    best, _ = topk_mask(torch.where(mask, -math.inf, grow), min(count, mask.numel() - active))
    return (kept | best).sum(1)
