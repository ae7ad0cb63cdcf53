"""Subset-sum solver: find the subset of n numbers whose sum is nearest to a target value z.

The solution is optimal up to about forty numbers; for more numbers a local search improves a greedy solution.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ersparse.theory.widths import Floats

EXACT = 30  # largest n that `solve` treats exactly: meet-in-the-middle forms 2^15 sums for each half


def all_sums(x: ArrayLike) -> Floats:
    """Return the sums of all 2^n subsets of x; bit i of an index tells whether x_i belongs to the subset."""
    sums = np.zeros(1)
    for value in np.asarray(x, dtype=np.float64):
        sums = np.concatenate([sums, sums + value])
    return sums


def nearest(x: ArrayLike, z: ArrayLike) -> tuple[NDArray[np.int64], Floats]:
    """Return the optimal subset of x for each target in z, by meet-in-the-middle in O(n 2^(n/2)).

    Args:
        x: n numbers, n <= 62.
        z: target values.

    Returns:
        For each target, the subset as the bits of an integer, and its error |z - sum|.
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
        index = np.where(np.abs(rest - low[above]) < np.abs(rest - low[below]), above, below)
        best = int(np.abs(rest - low[index]).argmin())
        codes[number] = int(order[index[best]]) | best << half
        errors[number] = abs(rest[best] - low[index[best]])
    return codes, errors


def solve(x: ArrayLike, z: float, tolerance: float = 0.0, rounds: int = 20, exact: int = EXACT) -> NDArray[np.bool_]:
    """Return a subset of x, as a boolean array, whose sum is near z; it is optimal for n <= `exact`.

    For larger n a greedy subset is improved: each round solves the problem exactly for `exact` random numbers and keeps
    the choice of the others, which never increases the error.

    Args:
        x: n numbers.
        z: target value.
        tolerance: error at which the improvement stops.
        rounds: largest number of improvement rounds.
        exact: largest n that is solved exactly, and the size of a round's window.
    """
    x = np.asarray(x, dtype=np.float64)
    if len(x) <= exact:
        return _bits(int(nearest(x, z)[0][0]), len(x))
    chosen, random = _greedy(x, z), np.random.default_rng(0)
    for _ in range(rounds):
        window = random.permutation(len(x))[:exact]
        rest = z - x[chosen].sum() + x[window][chosen[window]].sum()
        candidate = chosen.copy()
        candidate[window] = _bits(int(nearest(x[window], rest)[0][0]), exact)
        if abs(z - x[candidate].sum()) < abs(z - x[chosen].sum()):
            chosen = candidate
        if abs(z - x[chosen].sum()) <= tolerance:
            break
    return chosen


def _bits(code: int, n: int) -> NDArray[np.bool_]:
    return (code >> np.arange(n) & 1).astype(bool)


def _greedy(x: Floats, z: float) -> NDArray[np.bool_]:
    """Take numbers in decreasing magnitude, each if it brings the sum nearer to z."""
    chosen, rest = np.zeros(len(x), dtype=bool), z
    for index in np.argsort(-np.abs(x), kind="stable"):
        if abs(rest - x[index]) < abs(rest):
            chosen[index], rest = True, rest - x[index]
    return chosen
