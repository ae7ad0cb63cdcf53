"""Exact distribution of empty channels in Erdős–Rényi masks (the counts of Tables 5 and 6).

A layer has n_out rows (output channels), n_in columns (input channels) and kernels of k weights. It keeps each weight
independently with probability p. With q = 1 - p, a row is empty with probability q^(n_in k) and a column with
probability q^(n_out k).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from decimal import Decimal, localcontext
from functools import cache
from typing import NamedTuple

import numpy as np

LayerDensities = Iterable[tuple[Sequence[int], float]]  # shape (n_out, n_in, *kernel) and density p of each layer
NEGLIGIBLE = 1e-9  # below this probability, or above one minus it, covariances are not computed


class Moments(NamedTuple):
    """Mean and variance of a count."""

    mean: float
    variance: float

    def z(self, total: float, draws: int) -> float | None:
        """Return the z-score of the sum `total` over independent draws; None if the count has no variance."""
        sd = math.sqrt(draws * self.variance)
        return (total - draws * self.mean) / sd if sd > NEGLIGIBLE else None


def pair_distribution(layers: LayerDensities) -> np.ndarray:
    """Return the distribution of the number of (layer, direction) pairs that have a channel without an edge.

    This number is what Tables 5 and 6 print.

    Returns:
        The probabilities of 0, 1, ..., 2 L pairs in the mask as drawn, shape [2 L + 1].
    """
    distribution = np.ones(1)
    for shape, p in layers:
        distribution = np.convolve(distribution, _layer_pairs(shape[0], shape[1], math.prod(shape[2:]), p))
    return distribution


def moments(distribution: np.ndarray) -> Moments:
    """Return the moments of a count, given the probabilities of 0, 1, 2 and so on."""
    count = np.arange(len(distribution))
    mean = float(distribution @ count)
    return Moments(mean, max(0.0, float(distribution @ (count - mean) ** 2)))


def tail_probability(distribution: np.ndarray, total: int, draws: int) -> float:
    """Return the two-sided probability that the sum over independent draws is at least as extreme as `total`."""
    summed = np.ones(1)
    for _ in range(draws):
        summed = np.convolve(summed, distribution)
    return float(min(1.0, 2 * min(summed[: total + 1].sum(), summed[total:].sum())))


def edges_in(layers: LayerDensities) -> Moments:
    """Return the moments of the number of edges that `flow=add` adds to empty rows, one for each."""
    rows = [(shape[0], (1 - p) ** math.prod(shape[1:])) for shape, p in layers]
    return Moments(sum(n * empty for n, empty in rows), sum(n * empty * (1 - empty) for n, empty in rows))


def edges_out(layers: LayerDensities) -> Moments:
    """Return the moments of the number of edges that `flow=add` adds to the columns that are then still empty.

    A row has no edge in a column if none of the k weights there is kept, and if the row was not empty or its new edge
    went to another column; likewise for two columns. Rows are independent, columns are not, so the variance needs the
    probability that two columns are empty.
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
    """Return the probabilities that zero, one or both directions of a layer have a channel without an edge."""
    row = _any_empty(n_out, (1 - p) ** (n_in * k))
    column = _any_empty(n_in, (1 - p) ** (n_out * k))
    both = row * column
    if all(NEGLIGIBLE < q < 1 - NEGLIGIBLE for q in (row, column)):
        both = row + column - 1 + _none_empty(max(n_out, n_in), min(n_out, n_in), k, p)
    return np.array([1 - row - column + both, row + column - 2 * both, both])


def _any_empty(lines: int, empty: float) -> float:
    """Return the probability that at least one of `lines` independent rows or columns is empty."""
    return -math.expm1(lines * math.log1p(-empty)) if empty < 1 else 1.0


def _none_empty(n: int, m: int, k: int, p: float) -> float:
    """Return the probability that every row and every column of an n x m grid of kernels has an edge.

    Inclusion-exclusion over the m columns gives sum_j (-1)^j C(m, j) g^(n j) (1 - g^(m-j))^n, where g = (1-p)^k is the
    probability that a kernel has no edge. Terms of up to 2^m cancel, hence more than m decimal digits.
    """
    with localcontext() as context:
        context.prec = 40 + m
        gap = (1 - Decimal(p)) ** k
        return float(
            sum((-1) ** j * math.comb(m, j) * gap ** (n * j) * (1 - gap ** (m - j)) ** n for j in range(m + 1))
        )
