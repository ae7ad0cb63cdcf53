"""Redistribution of weights over layers while a network is rewired: the number that is dropped stays the total."""

from __future__ import annotations

import math
from collections.abc import Sequence


def allocate(total: int, shares: Sequence[float], lower: Sequence[int], upper: Sequence[int]) -> list[int]:
    """Return numbers in proportion to `shares`, within bounds, that add up to `total` exactly.

    The proportional numbers are min(max(t share, lower), upper) with the t that meets the total; they are rounded down,
    and what is left goes to the largest remainders, of equal ones to the first. A layer that cannot hold its share
    leaves the rest to the others in proportion.

    Args:
        total: the sum, in [sum(lower), sum(upper)].
        shares: shares, not negative; if all are zero or one is not finite, they are replaced by the upper bounds.
        lower: lower bounds.
        upper: upper bounds.
    """
    if not (all(map(math.isfinite, shares)) and any(shares)):
        shares = [float(bound) for bound in upper]
    exact = _filled(total, shares, lower, upper)
    found = [math.floor(round(value, 6)) for value in exact]
    order = sorted(range(len(found)), key=lambda i: found[i] - exact[i])
    while left := total - sum(found):
        step = 1 if left > 0 else -1
        free = [i for i in order[::step] if lower[i] <= found[i] + step <= upper[i]]
        for i in free[: abs(left)]:
            found[i] += step
    return found


def _filled(total: int, shares: Sequence[float], lower: Sequence[int], upper: Sequence[int]) -> list[float]:
    """Return the proportional numbers within bounds, by bisection on the logarithm of t."""

    def at(log_t: float) -> list[float]:
        t = math.exp(log_t)
        return [min(max(t * share, low), high) for share, low, high in zip(shares, lower, upper, strict=True)]

    low, high = -700.0, 700.0
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if sum(at(middle)) <= total else (low, middle)
    return at(low)
