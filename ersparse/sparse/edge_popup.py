"""Edge-popup inside an ER network: which of its random weights to use (Ramanujan et al. 2020; section 3 of the paper).

Each weight has a score. The forward pass multiplies the weights by a hard {0, 1} mask, true for the k weights of the
ER network with the largest scores; the gradient passes the mask as if it were the score itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ersparse.sparse.layers import Layer

BAND = 0.005  # around the last threshold, in parts of it, in which the next one is looked for first
SAMPLE = 10_000  # values from which a first threshold is guessed


def annealed(start: float, end: float, level: int, levels: int, schedule: str) -> float:
    """The density of level 1 to `levels`, between that of the source and the final one.

    Args:
        schedule: "geometric", p_0 (p_T / p_0)^(t/L); "linear", in equal steps; "code", what the paper's released code
            does: geometric from 0.6, and kept between the two.
    """
    part = level / levels
    if schedule == "linear":
        return start + (end - start) * part
    if schedule == "code":
        return min(max(0.6 * math.pow(end / 0.6, part), end), start)
    return start * math.pow(end / start, part)


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


def top(values: Tensor, count: int, near: float | None = None) -> tuple[Tensor, float | None]:
    """The `count` largest, exactly: under ties those that come first in memory.

    A full sort is not needed. On a CPU the threshold is looked for among the values `near` the last one, which are few
    when scores have moved little, then near where a sample has it, and in the end among all. On a GPU nothing waits for
    the host.

    Args:
        values: of any shape, NaN-free.
        near: the threshold of an earlier call on similar values; it changes the time taken, never the result.

    Returns:
        A boolean mask in the shape of `values`, and the threshold (on a CPU).
    """
    if count == 0:
        return torch.zeros_like(values, dtype=torch.bool), near
    if count == values.numel():
        return torch.ones_like(values, dtype=torch.bool), near
    order = _order(values)
    laid = values.permute(order)
    flat, threshold = laid.reshape(-1), None
    if values.device.type == "cpu":
        kept, threshold = _top_on_cpu(flat.numpy(), count, _guesses(flat, count, near))
        mask = torch.from_numpy(kept)
    else:
        least = flat.kthvalue(len(flat) - count + 1).values
        above, tied = flat > least, flat == least
        mask = above | (tied & (tied.cumsum(0) <= count - above.sum()))
    return mask.reshape(laid.shape).permute(tuple(np.argsort(order).tolist())), threshold


def _order(values: Tensor) -> tuple[int, ...]:
    """The dimensions from the slowest to the fastest, where they are those of one of PyTorch's two layouts."""
    last = values.dim() == 4 and values.is_contiguous(memory_format=torch.channels_last)
    return (0, 2, 3, 1) if last and not values.is_contiguous() else tuple(range(values.dim()))


def _guesses(values: Tensor, count: int, near: float | None) -> Iterator[tuple[float, float]]:
    """Bounds between which the threshold may lie: around the last one, from the order of a sample, and none at all.

    Of a sample of m, about m count / N exceed the threshold, give or take the deviation of that number: five of it.
    """
    if near is not None:
        yield near - BAND * abs(near), near + BAND * abs(near)
    if len(values) >= 10 * SAMPLE:
        sample = np.sort(values[:: len(values) // SAMPLE].numpy())[::-1]
        share = count / len(values)
        place, spread = share * len(sample), 5 * math.sqrt(share * (1 - share) * len(sample)) + 1
        first, last = int(place - spread), int(place + spread)
        low = float(sample[last]) if last < len(sample) else -math.inf
        yield low, float(sample[first]) if first >= 0 else math.inf
    yield -math.inf, math.inf


def _top_on_cpu(values: np.ndarray, count: int, guesses: Iterator[tuple[float, float]]) -> tuple[np.ndarray, float]:
    """All of it is numpy's, whose comparisons are vectorised: on one core they take a third of PyTorch's on two."""
    low, high = next(guesses)
    kept = values > high
    inside = np.flatnonzero((values >= low) ^ kept)
    above = int(np.count_nonzero(kept))
    if not above < count <= above + len(inside):
        return _top_on_cpu(values, count, guesses)
    candidates = values[inside]
    place = len(candidates) - (count - above)
    threshold = np.partition(candidates, place)[place]
    better, tied = candidates > threshold, candidates == threshold
    kept[inside[better]] = True
    kept[inside[tied][: count - above - np.count_nonzero(better)]] = True
    return kept, float(threshold)


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
