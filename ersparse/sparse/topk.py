"""Exact selection of the k largest values, without a full sort."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

THRESHOLD_BAND = 0.005  # relative width of the interval around the previous threshold that is searched first
SAMPLE_SIZE = 10_000  # values from which a first threshold is estimated


def topk_mask(values: Tensor, count: int, near: float | None = None) -> tuple[Tensor, float | None]:
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
        yield near - THRESHOLD_BAND * abs(near), near + THRESHOLD_BAND * abs(near)
    if len(values) >= 10 * SAMPLE_SIZE:
        sample = np.sort(values[:: len(values) // SAMPLE_SIZE].numpy())[::-1]
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
