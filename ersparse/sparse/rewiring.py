"""Rewiring a sparse network as it trains: drop weights, grow as many elsewhere in the same layer.

RigL grows where the dense gradient is largest (Evci et al. 2020), SET at random (Mocanu et al. 2018). A weight is
active where its mask is true, also where its value is zero.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ersparse.sparse import flow_repair
from ersparse.sparse.layers import Layer
from ersparse.sparse.mask import Masks
from ersparse.sparse.rng import generator
from ersparse.sparse.topk import topk_mask


@dataclass(frozen=True)
class Change:
    """What an update does to one layer; both masks have its shape, and as many true places.

    Attributes:
        removed: active before, not after.
        grown: active after, not before. A weight that is dropped and grown back at once is in neither.
    """

    removed: Tensor
    grown: Tensor


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
    return _possible(int(share * active), active, size, regrow)


def exchanged_globally(masks: Masks, drop: Mapping[str, Tensor], share: float, regrow: bool) -> dict[str, int]:
    """As `exchanged`, the share taken of all layers that are not full together, wherever their smallest weights lie."""
    open_ = [name for name, mask in masks.items() if not mask.all()]
    values = [torch.where(masks[name], -drop[name], -math.inf).reshape(-1) for name in open_]
    if not open_:
        return dict.fromkeys(masks, 0)
    total = int(share * sum(int(masks[name].sum()) for name in open_))
    chosen = torch.split(topk_mask(torch.cat(values), total)[0], [len(value) for value in values])
    counts = dict.fromkeys(masks, 0)
    for name, part in zip(open_, chosen, strict=True):
        mask = masks[name]
        counts[name] = _possible(int(part.sum()), int(mask.sum()), mask.numel(), regrow)
    return counts


def _possible(count: int, active: int, size: int, regrow: bool) -> int:
    if active == size:
        return 0
    return count if regrow else min(count, size - active)


def update(mask: Tensor, drop: Tensor, grow: Tensor, count: int, regrow: bool = True) -> Change:
    """One update of one layer. Under ties the weights that come first in memory are kept, and grown.

    Args:
        mask: the active weights.
        drop: scores of which the `count` smallest active ones go, NaN-free, on the device of `mask`, in its shape.
        grow: scores of which the `count` largest come, likewise.
        count: as `exchanged` says.
        regrow: whether a weight that is dropped may be grown back at once; it is then left as it is, value and all.
    """
    kept, _ = topk_mask(torch.where(mask, drop, -math.inf), int(mask.sum()) - count)
    free = ~kept if regrow else ~mask
    grown, _ = topk_mask(torch.where(free, grow, -math.inf), count)
    return difference(mask, kept | grown)


def difference(before: Tensor, after: Tensor) -> Change:
    """What changes from one mask to another."""
    return Change(before & ~after, after & ~before)


def pruned_globally(masks: Masks, keep: Mapping[str, Tensor], count: int) -> dict[str, Change]:
    """Leaves the `count` active weights with the largest scores, of all layers together (GraNet's pruning).

    `count` of all active weights or more changes nothing.
    """
    count = min(count, sum(int(mask.sum()) for mask in masks.values()))
    values = torch.cat([torch.where(mask, keep[name], -math.inf).reshape(-1) for name, mask in masks.items()])
    parts = torch.split(topk_mask(values, count)[0], [mask.numel() for mask in masks.values()])
    return {
        name: difference(mask, part.reshape(mask.shape))
        for (name, mask), part in zip(masks.items(), parts, strict=True)
    }


def with_flow(change: Change, mask: Tensor, layer: Layer, random: np.random.Generator) -> Change:
    """The change, mended so that every channel keeps an edge: weights move within the layer, their number stays.

    The mask must have an edge at every channel before the change, or there may be too few weights for that.
    """
    after = (mask & ~change.removed) | change.grown
    repaired, _ = flow_repair.move(after.cpu().contiguous(), layer, 1.0, random)
    return difference(mask, repaired.to(mask.device))


@torch.no_grad()
def apply(
    change: Change,
    mask: Tensor,
    weight: Tensor,
    state: Mapping[str, Any],
    values: Tensor | None = None,
    forget: bool = True,
) -> None:
    """Makes the change, in place: removed weights are 0, grown ones 0 or what `values` has for them.

    Args:
        state: of `weight` in its optimizer; tensors of its shape belong to single weights (momentum, Adam's moments),
            others (Adam's count of steps) are left alone. Empty before the first step.
        forget: set the state of grown weights to 0. Otherwise they start with the momentum that dense gradients gave
            them while they were inactive.
    """
    mask.logical_and_(~change.removed).logical_or_(change.grown)
    weight.masked_fill_(change.removed | change.grown, 0.0)
    if values is not None:
        weight.copy_(torch.where(change.grown, values.to(weight), weight))
    for value in state.values() if forget else ():
        if isinstance(value, Tensor) and value.shape == weight.shape:
            value.masked_fill_(change.grown, 0.0)
