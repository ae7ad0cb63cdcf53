"""Failure rates of dense subset sums, and the fit of the constants a and b of Lemma 2.1 to them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import binom

from ersparse.theory.widths import Floats


@dataclass(frozen=True)
class DenseFailures:
    """Failure rates of k numbers that are all present, for the hardest target.

    Attributes:
        epsilons: error tolerances.
        share: failure rates, [batches, k, epsilons].
        trials: draws for each k, over all batches.
    """

    epsilons: Floats
    share: Floats
    trials: int

    @property
    def mean(self) -> Floats:
        """Return the failure rates over all batches, [k, epsilons]."""
        return np.asarray(self.share.mean(0))

    def masked(self, n: int, p: float, epsilon: float) -> float:
        """Return the failure probability of n numbers that are present with probability p.

        Numbers beyond the largest measured k are assumed to fail as often as at this k.
        """
        return float(binom.pmf(np.arange(n + 1), n, p) @ self._by_k(n, epsilon))

    def masked_error(self, n: int, p: float, epsilon: float) -> float:
        """Return the standard error of `masked`."""
        share = self._by_k(n, epsilon)
        return float(np.sqrt(binom.pmf(np.arange(n + 1), n, p) ** 2 @ (share * (1 - share)) / self.trials))

    def _by_k(self, n: int, epsilon: float) -> Floats:
        k = np.minimum(np.arange(n + 1), self.share.shape[1] - 1)
        return np.asarray(self.mean[k, int(np.abs(self.epsilons - epsilon).argmin())])

    def required_size(self, p: float, delta: float, epsilon: float) -> int | None:
        """Return the smallest n that fails with probability delta or less; None if it lies beyond 60/p."""
        return next((n for n in range(1, int(60 / p) + 1) if self.masked(n, p, epsilon) <= delta), None)


def fit_constants(epsilons: Floats, share: Floats, resolution: float) -> tuple[float, float]:
    """Fit (a, b) of the bound share <= a e^(-b k) / epsilon.

    The rate b is a least-squares fit on the logarithm, over shares of at most a half; a is then raised until the bound
    lies above all points.

    Args:
        epsilons: error tolerances.
        share: failure rates, [k, epsilons].
        resolution: smallest rate that is used.
    """
    k = np.broadcast_to(np.arange(len(share))[:, None], share.shape)
    with np.errstate(divide="ignore"):
        height = np.log(share) + np.log(epsilons)
    tail = (share >= resolution) & (share <= 0.5)
    b = -float(np.polyfit(k[tail], height[tail], 1)[0])
    return float(np.exp((height + b * k)[share >= resolution].max())), b


def jackknife(dense: DenseFailures, resolution: float) -> Floats:
    """Return the standard errors of a and b by a jackknife over the batches."""
    batches = len(dense.share)
    fits = [
        fit_constants(dense.epsilons, np.delete(dense.share, batch, 0).mean(0), resolution) for batch in range(batches)
    ]
    return np.asarray(np.sqrt((batches - 1) * np.var(np.asarray(fits), axis=0)))
