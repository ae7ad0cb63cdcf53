"""Statistics of small samples: t-intervals, paired differences, Welch's interval, and power."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from scipy import special

LEVEL = 0.95  # confidence level of intervals
POWER = 0.8
MANY = 1000  # the largest number of seeds that `seeds_needed` returns


@dataclass(frozen=True)
class Summary:
    """Summary statistics of a sample.

    Attributes:
        n: sample size.
        mean: None for an empty sample.
        sd: sample standard deviation, with n - 1; None if n < 2.
        low, high: 95 % t-interval of the mean; None if n < 2.
    """

    n: int
    mean: float | None
    sd: float | None
    low: float | None
    high: float | None


def summary(values: Sequence[float]) -> Summary:
    """Return the summary statistics of independent values."""
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
    """Return the summary of the differences first - second over the common seeds (paired t-interval)."""
    return summary([first[seed] - second[seed] for seed in sorted(first.keys() & second.keys())])


def seeds_needed(difference: float, sd: float) -> int | None:
    """Return the smallest number of pairs with which a paired two-sided t-test at 5 % has a power of 0.8.

    Args:
        difference: true mean difference, in the unit of `sd`.
        sd: standard deviation of the differences.

    Returns:
        None if it is more than `MANY`, or if the difference is zero.
    """
    if sd == 0:
        return 2 if difference else None
    effect = abs(difference) / sd
    start = (special.ndtri(0.5 + LEVEL / 2) + special.ndtri(POWER)) ** 2 / effect**2 if effect else math.inf
    if start > MANY:
        return None
    n = max(2, math.floor(start))  # the z-test needs fewer pairs than the t-test
    while n <= MANY and _power(effect, n) < POWER:
        n += 1
    return n if n <= MANY else None


def welch(one: Summary, mean: float, sd: float, n: int) -> tuple[float, float] | None:
    """Return Welch's 95 % interval of the difference of two means; None if either sample has fewer than two values.

    Args:
        one: summary of the first sample.
        mean: the mean of the second sample.
        sd: standard deviation of the second sample.
        n: size of the second sample.
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
    """Return the quantile of Student's t that bounds a two-sided interval, for `freedom` degrees of freedom."""
    return float(special.stdtrit(freedom, 0.5 + LEVEL / 2))


def _power(effect: float, n: int) -> float:
    """Return the power of a two-sided t-test with n pairs, from the noncentral t distribution."""
    noncentrality, bound = effect * math.sqrt(n), quantile(n - 1)
    return float(1 - special.nctdtr(n - 1, noncentrality, bound) + special.nctdtr(n - 1, noncentrality, -bound))
