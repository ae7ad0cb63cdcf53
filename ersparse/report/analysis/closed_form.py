"""What chance alone makes of an Erdős–Rényi mask: the counters of Tables 5 and 6, exactly.

A layer of n_out rows and n_in columns keeps each weight with probability p, independently; k weights make a kernel.
With q = 1 - p, a row is empty with probability q^(n_in k), a column with q^(n_out k).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from decimal import Decimal, localcontext
from functools import cache
from typing import NamedTuple

import numpy as np

Layers = Iterable[tuple[Sequence[int], float]]  # (n_out, n_in, *kernel) and density of each
NEGLIGIBLE = 1e-9  # an event so rare, or so sure, leaves no covariance worth its arithmetic


class Moments(NamedTuple):
    """Of a count: what it is on average, and its variance."""

    mean: float
    variance: float

    def z(self, total: float, draws: int) -> float | None:
        """How many standard deviations the sum over independent draws lies from what it should be.

        None where chance has no say: the count is always the same.
        """
        spread = math.sqrt(draws * self.variance)
        return (total - draws * self.mean) / spread if spread > NEGLIGIBLE else None


def pairs(layers: Layers) -> np.ndarray:
    """The distribution of what Tables 5 and 6 print: (layer, direction) pairs with a channel without an edge.

    Returns:
        The probability of 0, 1, ..., 2 L pairs in the mask as drawn.
    """
    distribution = np.ones(1)
    for shape, p in layers:
        distribution = np.convolve(distribution, _layer_pairs(shape[0], shape[1], math.prod(shape[2:]), p))
    return distribution


def moments(distribution: np.ndarray) -> Moments:
    """Of the count whose probabilities these are."""
    count = np.arange(len(distribution))
    mean = float(distribution @ count)
    return Moments(mean, max(0.0, float(distribution @ (count - mean) ** 2)))


def chance(distribution: np.ndarray, total: int, draws: int) -> float:
    """How often the sum over independent draws lies as far out as `total`, on either side."""
    summed = np.ones(1)
    for _ in range(draws):
        summed = np.convolve(summed, distribution)
    return float(min(1.0, 2 * min(summed[: total + 1].sum(), summed[total:].sum())))


def edges_in(layers: Layers) -> Moments:
    """Edges that `flow=add` puts into empty rows: one for each."""
    rows = [(shape[0], (1 - p) ** math.prod(shape[1:])) for shape, p in layers]
    return Moments(sum(n * empty for n, empty in rows), sum(n * empty * (1 - empty) for n, empty in rows))


def edges_out(layers: Layers) -> Moments:
    """Edges that `flow=add` then puts into the columns that are still empty.

    A row misses a column if it has none of its k weights there, unless it was empty and its new weight went there; it
    misses two columns likewise. Rows are independent, columns are not: hence the second moment.
    """
    mean = variance = 0.0
    for shape, p in layers:
        n_out, n_in, k = shape[0], shape[1], math.prod(shape[2:])
        gap, empty = (1 - p) ** k, (1 - p) ** (n_in * k)
        one = (gap - empty / n_in) ** n_out
        two = (gap**2 - 2 * empty / n_in) ** n_out if n_in > 1 else 0.0
        mean += n_in * one
        variance += n_in * one * (1 - one) + n_in * (n_in - 1) * (two - one**2)
    return Moments(mean, max(0.0, variance))


@cache
def _layer_pairs(n_out: int, n_in: int, k: int, p: float) -> np.ndarray:
    """The probabilities that no, one or both directions of a layer have a channel without an edge."""
    row = _any_empty(n_out, (1 - p) ** (n_in * k))
    column = _any_empty(n_in, (1 - p) ** (n_out * k))
    both = row * column
    if all(NEGLIGIBLE < q < 1 - NEGLIGIBLE for q in (row, column)):
        both = row + column - 1 + _none_empty(max(n_out, n_in), min(n_out, n_in), k, p)
    return np.array([1 - row - column + both, row + column - 2 * both, both])


def _any_empty(lines: int, empty: float) -> float:
    return -math.expm1(lines * math.log1p(-empty)) if empty < 1 else 1.0


def _none_empty(n: int, m: int, k: int, p: float) -> float:
    """The probability that each row and each column of an n x m grid of kernels has an edge.

    By inclusion and exclusion over the m columns, with g = (1-p)^k the chance of no edge,
    sum_j (-1)^j C(m, j) g^(n j) (1 - g^(m-j))^n. Terms of up to 2^m cancel, so it takes m digits and more.
    """
    with localcontext() as context:
        context.prec = 40 + m
        gap = (1 - Decimal(p)) ** k
        return float(
            sum((-1) ** j * math.comb(m, j) * gap ** (n * j) * (1 - gap ** (m - j)) ** n for j in range(m + 1))
        )
