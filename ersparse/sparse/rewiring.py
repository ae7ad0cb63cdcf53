"""Rewiring during training: drop weights, and grow as many in the same layer (dynamic sparse training).

RigL grows the weights with the largest dense gradient (Evci et al. 2020, section 3); SET grows at random (Mocanu et al.
2018). A weight is active if its mask is True, even if its value is zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
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
from ersparse.sparse.transfer import counts, to_device, to_host

GOLDEN_SECTION = (5**0.5 - 1) / 2


@dataclass(frozen=True)
class Change:
    """The change of one layer's mask, as two masks in its shape.

    Attributes:
        removed: weights that were active before, and are not after.
        grown: weights that are active after, and were not before. A weight that one update drops and grows back is in
            neither.
    """

    removed: Tensor
    grown: Tensor


def magnitude(values: Tensor) -> Tensor:
    """Return |x|, with NaN replaced by 0 so that counts stay exact if training has diverged.

    The drop score is the magnitude of the weights, the grow score that of the dense gradient.
    """
    return values.detach().abs().nan_to_num(nan=0.0)


def random_growth_scores(shape: tuple[int, ...], seed: int, name: str, step: int) -> Tensor:
    """Draw grow scores uniformly on [0, 1), from (seed, name, step) alone: equal on all ranks and after a resume."""
    return torch.from_numpy(generator(seed, name, "grow", str(step)).random(shape))


def drop_count(active: int, size: int, fraction: float, regrow: bool, dense: bool = False) -> int:
    """Return how many weights of a layer an update drops, and grows.

    Args:
        active: number of active weights of the layer.
        size: number of weights of the layer.
        fraction: drop fraction of the active weights; the count is rounded down, as in RigL's own code.
        regrow: whether a weight that is dropped may be grown by the same update. Otherwise the count is at most the
            number of inactive weights.
        dense: whether a dense layer drops as well, because other layers can grow.

    Returns:
        The count; 0 for a dense layer, which has no weight to grow, unless `dense` is set.
    """
    return _feasible(int(fraction * active), active, size, regrow, dense)


def global_drop_counts(
    masks: Masks,
    drop: Mapping[str, Tensor],
    fraction: float,
    regrow: bool,
    active: Mapping[str, int] | None = None,
    dense: bool = False,
) -> dict[str, int]:
    """Return `drop_count` by layer, with the drop fraction taken globally rather than per layer.

    The weights with the smallest drop scores of all layers that are not dense determine how many each layer drops.

    Args:
        masks: active weights by layer name.
        drop: drop scores by layer name, NaN-free.
        fraction: drop fraction of the active weights of layers that are not dense.
        regrow: as for `drop_count`.
        active: number of active weights by layer name; None counts them.
        dense: as for `drop_count`.
    """
    active = counts(masks) if active is None else active
    sparse = [name for name, mask in masks.items() if dense or active[name] < mask.numel()]
    values = [torch.where(masks[name], -drop[name], -math.inf).reshape(-1) for name in sparse]
    if not sparse:
        return dict.fromkeys(masks, 0)
    total = int(fraction * sum(active[name] for name in sparse))
    chosen = torch.split(topk_mask(torch.cat(values), total)[0], [len(value) for value in values])
    dropped = counts(dict(zip(sparse, chosen, strict=True)))
    feasible = {
        name: _feasible(count, active[name], masks[name].numel(), regrow, dense) for name, count in dropped.items()
    }
    return dict.fromkeys(masks, 0) | feasible


def _feasible(count: int, active: int, size: int, regrow: bool, dense: bool) -> int:
    """Limit a drop count to the number of weights that can be grown."""
    if active == size and not dense:
        return 0
    return count if regrow else min(count, size - active)


def spread_order(size: int, seed: int, name: str, step: int, device: torch.device) -> Tensor:
    """Return a permutation of the positions of a layer whose beginning, however long, is spread evenly over it.

    It consists of the multiples of a number near the golden section of `size`, modulo `size`, from a drawn start.

    Args:
        size: number of weights of the layer.
        seed: of the start, together with `name` and `step`.
        name: of the layer.
        step: of the update.
        device: on which the permutation is computed.
    """
    stride = max(1, round(GOLDEN_SECTION * size))
    while math.gcd(stride, size) != 1:
        stride += 1
    start = int(generator(seed, name, "ties", str(step)).integers(size))
    return torch.arange(size, device=device).mul_(stride).add_(start).remainder_(size)


def update(
    mask: Tensor,
    drop: Tensor,
    grow: Tensor,
    count: int,
    regrow: bool = True,
    active: int | None = None,
    grown: int | None = None,
    order: Tensor | None = None,
) -> Change:
    """Drop the `count` active weights with the smallest drop scores, and grow those with the largest grow scores.

    Ties go to the weights that come first in memory: they are kept, and grown.

    Args:
        mask: active weights of the layer.
        drop: drop scores in the shape of `mask` and on its device, NaN-free.
        grow: grow scores, likewise.
        count: number of weights to exchange, from `drop_count`.
        regrow: whether a weight that is dropped may be grown by the same update; it then keeps its value.
        active: number of active weights; None counts them.
        grown: number of weights to grow, if it is another one, because layers share what all of them dropped.
        order: permutation of the positions of the layer; of equal grow scores, the first in it are grown.
    """
    active = int(mask.sum()) if active is None else active
    left = kept(mask, drop, active - count)
    free = ~left if regrow else ~mask
    chosen = _largest_in(torch.where(free, grow, -math.inf), count if grown is None else grown, order)
    return difference(mask, left | chosen)


def _largest_in(values: Tensor, count: int, order: Tensor | None) -> Tensor:
    """Return the mask of the `count` largest values, of equal ones the first in `order`."""
    if order is None:
        return topk_mask(values, count)[0]
    chosen = torch.empty(values.numel(), dtype=torch.bool, device=values.device)
    chosen.scatter_(0, order, topk_mask(values.reshape(-1)[order], count)[0])
    return chosen.reshape(values.shape)


def kept(mask: Tensor, drop: Tensor, count: int) -> Tensor:
    """Return the mask of the `count` active weights with the largest drop scores."""
    return topk_mask(torch.where(mask, drop, -math.inf), count)[0]


def difference(before: Tensor, after: Tensor) -> Change:
    """Return the change from one mask to another."""
    return Change(before & ~after, after & ~before)


def prune_globally(
    masks: Masks, keep: Mapping[str, Tensor], count: int, active: Mapping[str, int] | None = None
) -> dict[str, Change]:
    """Keep the `count` active weights with the largest scores of all layers (GraNet's pruning, Liu et al. 2021b).

    Args:
        masks: active weights by layer name.
        keep: scores by layer name, NaN-free; the largest are kept.
        count: number of weights to keep; nothing changes if it is not less than the number of active weights.
        active: number of active weights by layer name; None counts them.
    """
    count = min(count, sum((counts(masks) if active is None else active).values()))
    values = torch.cat([torch.where(mask, keep[name], -math.inf).reshape(-1) for name, mask in masks.items()])
    parts = torch.split(topk_mask(values, count)[0], [mask.numel() for mask in masks.values()])
    return {
        name: difference(mask, part.reshape(mask.shape))
        for (name, mask), part in zip(masks.items(), parts, strict=True)
    }


def repair_changes(
    changes: Mapping[str, Change],
    masks: Masks,
    layers: Mapping[str, Layer],
    random: Callable[[str], np.random.Generator],
) -> dict[str, Change]:
    """Repair the flow of each mask after its change by moving weights within the layer, and return the whole changes.

    Args:
        changes: the changes to repair, by layer name.
        masks: active weights before the changes. Every channel must have an edge, or a layer may have too few weights
            for the repair to preserve their number.
        layers: the layers.
        random: returns the random number generator of a layer.
    """
    after = {name: (masks[name] & ~change.removed) | change.grown for name, change in changes.items()}
    repaired = {
        name: flow_repair.move(mask, layers[name], 1.0, random(name))[0] for name, mask in to_host(after).items()
    }
    return {name: difference(masks[name], to_device(mask, masks[name].device)) for name, mask in repaired.items()}


@torch.no_grad()
def apply(
    change: Change,
    mask: Tensor,
    weight: Tensor,
    state: Mapping[str, Any],
    values: Tensor | None = None,
    reset_state: bool = True,
) -> None:
    """Apply a change to a layer in place: removed weights become 0, grown weights 0 or their entry of `values`.

    Args:
        change: the change.
        mask: mask of the layer.
        weight: weight of the layer.
        state: optimizer state of `weight`, empty before the first step. Tensors in the shape of the weight are state of
            single weights (momentum buffers, Adam's moments); others, such as Adam's step count, are left alone.
        values: values of grown weights, in the shape of the weight; None starts them at 0.
        reset_state: set the optimizer state of removed and grown weights to 0. Otherwise grown weights keep the
            momentum that dense gradients, if the optimizer sees them, accumulated while they were inactive.
    """
    mask.logical_and_(~change.removed).logical_or_(change.grown)
    weight.masked_fill_(change.removed | change.grown, 0.0)
    if values is not None:
        weight.copy_(torch.where(change.grown, to_device(values, weight.device).to(weight), weight))
    for value in state.values() if reset_state else ():
        if isinstance(value, Tensor) and value.shape == weight.shape:
            value.masked_fill_(change.removed | change.grown, 0.0)
