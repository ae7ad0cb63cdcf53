"""Subset sums: which of some numbers add up to nearly z? Exactly up to about forty numbers, well beyond."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
EXACT = 30  # numbers that `solve` handles at once: 2^15 sums on each side


def all_sums(x: ArrayLike) -> Floats:
    """The 2^n sums of subsets of x; bit i of a sum's index says whether x_i is in it."""
    sums = np.zeros(1)
    for value in np.asarray(x, dtype=np.float64):
        sums = np.concatenate([sums, sums + value])
    return sums


def nearest(x: ArrayLike, z: ArrayLike) -> tuple[NDArray[np.int64], Floats]:
    """Optimal subsets of x for each target in z, by meeting in the middle: O(2^(n/2) n) for n numbers.

    Returns:
        For each target, the subset as bits of an integer (n <= 62), and its error |z - sum|.
    """
    x, z = np.asarray(x, dtype=np.float64), np.atleast_1d(np.asarray(z, dtype=np.float64))
    half = len(x) // 2
    low, high = all_sums(x[:half]), all_sums(x[half:])
    order = np.argsort(low, kind="stable")
    low = low[order]
    codes, errors = np.empty(len(z), dtype=np.int64), np.empty(len(z))
    for number, target in enumerate(z):
        rest = target - high
        above = np.searchsorted(low, rest).clip(0, len(low) - 1)
        below = (above - 1).clip(0)
        place = np.where(np.abs(rest - low[above]) < np.abs(rest - low[below]), above, below)
        best = int(np.abs(rest - low[place]).argmin())
        codes[number] = int(order[place[best]]) | best << half
        errors[number] = abs(rest[best] - low[place[best]])
    return codes, errors


def solve(x: ArrayLike, z: float, tolerance: float = 0.0, rounds: int = 20, exact: int = EXACT) -> NDArray[np.bool_]:
    """A subset of x, as a boolean array, whose sum is near z: optimal up to `exact` numbers.

    Beyond, numbers are taken greedily, and then windows of `exact` random numbers are solved again exactly with the
    others as they are, which never makes the error larger, until it is at most `tolerance` or the `rounds` are over.
    """
    x = np.asarray(x, dtype=np.float64)
    if len(x) <= exact:
        return _bits(int(nearest(x, z)[0][0]), len(x))
    chosen, random = _greedy(x, z), np.random.default_rng(0)
    for _ in range(rounds):
        window = random.permutation(len(x))[:exact]
        rest = z - x[chosen].sum() + x[window][chosen[window]].sum()
        better = chosen.copy()
        better[window] = _bits(int(nearest(x[window], rest)[0][0]), exact)
        if abs(z - x[better].sum()) < abs(z - x[chosen].sum()):
            chosen = better
        if abs(z - x[chosen].sum()) <= tolerance:
            break
    return chosen


def _bits(code: int, n: int) -> NDArray[np.bool_]:
    return (code >> np.arange(n) & 1).astype(bool)


def _greedy(x: Floats, z: float) -> NDArray[np.bool_]:
    """From the largest on, each number that brings the sum nearer."""
    chosen, rest = np.zeros(len(x), dtype=bool), z
    for place in np.argsort(-np.abs(x), kind="stable"):
        if abs(rest - x[place]) < abs(rest):
            chosen[place], rest = True, rest - x[place]
    return chosen
