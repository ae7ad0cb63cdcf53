"""The statistics of a handful of seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from scipy import special

LEVEL = 0.95  # of intervals
POWER = 0.8
MANY = 1000  # seeds: beyond, nobody asks


@dataclass(frozen=True)
class Summary:
    """Of a sample. Spread and interval are None where fewer than two values could show one.

    Attributes:
        sd: sample deviation, by n - 1.
        low, high: 95 % t-interval of the mean.
    """

    n: int
    mean: float | None
    sd: float | None
    low: float | None
    high: float | None


def summary(values: Sequence[float]) -> Summary:
    """Of independent values."""
    n = len(values)
    if n == 0:
        return Summary(0, None, None, None, None)
    mean = math.fsum(values) / n
    if n == 1:
        return Summary(1, mean, None, None, None)
    sd = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    half = quantile(n - 1) * sd / math.sqrt(n)
    return Summary(n, mean, sd, mean - half, mean + half)


def paired(first: Mapping[int, float], second: Mapping[int, float]) -> Summary:
    """Of the differences first - second over the seeds that both have."""
    return summary([first[seed] - second[seed] for seed in sorted(first.keys() & second.keys())])


def seeds_needed(difference: float, sd: float) -> int | None:
    """The fewest pairs with which a two-sided t-test at 5 % sees a true mean difference in four of five experiments.

    Args:
        difference: that is to be seen, in the unit of `sd`.
        sd: of the differences between pairs.

    Returns:
        None where it takes more than `MANY`, or there is no difference to see.
    """
    if sd == 0:
        return 2 if difference else None
    effect = abs(difference) / sd
    start = (special.ndtri(0.5 + LEVEL / 2) + special.ndtri(POWER)) ** 2 / effect**2 if effect else math.inf
    if start > MANY:
        return None
    n = max(2, math.floor(start))  # a normal test needs fewer than a t-test
    while n <= MANY and _power(effect, n) < POWER:
        n += 1
    return n if n <= MANY else None


def welch(one: Summary, mean: float, sd: float, n: int) -> tuple[float, float] | None:
    """95 % interval of the difference between a sample's mean and another's, known by mean, deviation and size.

    None where either has no spread.
    """
    if one.sd is None or one.mean is None or n < 2:
        return None
    a, b = one.sd**2 / one.n, sd**2 / n
    if a + b == 0:
        return one.mean - mean, one.mean - mean
    freedom = (a + b) ** 2 / (a**2 / (one.n - 1) + b**2 / (n - 1))
    half = quantile(freedom) * math.sqrt(a + b)
    return one.mean - mean - half, one.mean - mean + half


@cache
def quantile(freedom: float) -> float:
    """Of Student's t, at which a two-sided interval begins."""
    return float(special.stdtrit(freedom, 0.5 + LEVEL / 2))


def _power(effect: float, n: int) -> float:
    away = effect * math.sqrt(n)
    return float(1 - special.nctdtr(n - 1, away, quantile(n - 1)) + special.nctdtr(n - 1, away, -quantile(n - 1)))
