"""Width bounds of ER source networks: Lemma 2.1 and Theorems 2.4 to 2.7, as printed in the paper and as corrected.

`docs/theory.md` lists the differences between both and the reasons. Densities lie in (0, 1], failure probabilities and
errors in (0, 1). All functions are numerically stable as p -> 0. They accept arrays in place of numbers, except where
the width of a layer depends on that of the next one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ersparse.errors import UserError

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


def width_factor(p: ArrayLike) -> Floats:
    """Return 1/log(1/(1-p)), the paper's factor of overparametrization: 1/p - 1/2 - O(p) for small p, 0 at p = 1."""
    p = check_interval("p", p, closed=True)
    with np.errstate(divide="ignore"):
        return np.asarray(-1 / np.log1p(-p))


def width_factor_approximation(p: ArrayLike) -> Floats:
    """Return 1/p, the paper's approximation of `width_factor` for small p; it is larger for every p."""
    return np.asarray(1 / check_interval("p", p, closed=True))


def weak_copies_printed(m: Sequence[int], p: Sequence[float], delta: float) -> list[int]:
    """Return q_0..q_L of Theorems 2.4 (L = 2), 2.5 and 2.6 as printed, rounded up.

    Args:
        m: m_1..m_L, nonzero weights of the target's layers.
        p: densities p_0..p_L of the source's layers; the printed width does not depend on p_0.
        delta: failure probability.
    """
    copies = [1]
    for size, density in zip(reversed(m), reversed(p[1:]), strict=True):
        copies.insert(0, _round_up(width_factor(density) * _log_union(len(m) * size * max(copies[0], 1), delta)))
    return copies


def weak_copies(m: Sequence[int], p: Sequence[float], delta: float) -> list[int]:
    """Return q_0..q_L of Theorems 2.4 to 2.6 as corrected: at least one copy, and p_0 enters the first layer.

    A neuron of layer 0 can represent a target weight if both the edge from its input (p_0) and the edge to layer 1
    (p_1) are kept. The union bound over the weights of layer 1 therefore has p_0 p_1 in place of p_1. If univariate
    blocks are constructed instead of drawn, set p_0 = 1.

    Args:
        m: m_1..m_L, nonzero weights of the target's layers.
        p: densities p_0..p_L of the source's layers.
        delta: failure probability.
    """
    check_densities(m, p)
    check_interval("delta", delta)
    copies, edge_densities = [1], [p[0] * p[1], *p[2:]]
    for size, density in zip(reversed(m), reversed(edge_densities), strict=True):
        required = width_factor(density) * _log_union(len(m) * max(size, 1) * copies[0], delta)
        copies.insert(0, max(1, _round_up(required)))
    return copies


def width_lower_bound(p: ArrayLike, delta: ArrayLike, d: ArrayLike) -> Floats:
    """Return the bound of Theorem 2.7, log(1/(1-(1-delta)^(1/d))) / log(1/(1-p)).

    A hidden layer below this width has a path from all d inputs with probability less than 1-delta. The theorem holds
    as printed: if every output edge were kept, the success probability would be (1-(1-p)^n)^d.
    """
    return np.asarray(width_factor(p) * _log_inverse_input_failure(check_interval("delta", delta), d))


def width_lower_bound_of_proof(p: ArrayLike, delta: ArrayLike, d: ArrayLike) -> Floats:
    """Return the larger bound of A.6, with p^2 in place of p.

    It does not hold, because the proof treats paths from different inputs as independent.
    """
    squared = check_interval("p", p, closed=True) ** 2
    return np.asarray(width_factor(squared) * _log_inverse_input_failure(check_interval("delta", delta), d))


def subset_sum_size_printed(p: ArrayLike, delta: ArrayLike, epsilon: ArrayLike, constant: float = 1.0) -> Floats:
    """Return n of Lemma 2.1 as printed, equation (1); it falls to 0 as p -> 1, for every constant."""
    smaller = np.minimum(check_interval("delta", delta), check_interval("epsilon", epsilon))
    return np.asarray(constant * width_factor(p) * -np.log(smaller))


def subset_sum_size(p: ArrayLike, delta: ArrayLike, epsilon: ArrayLike, a: float, b: float) -> Integers:
    """Return n of Lemma 2.1 as corrected: n >= log(a/(delta epsilon)) / -log(1 - p (1 - e^-b)), rounded up.

    Args:
        p: density, the probability that a number is present.
        delta: failure probability.
        epsilon: error tolerance.
        a: factor of the bound P(no subset of k uniforms is within epsilon) <= a e^(-b k) / epsilon.
        b: rate of the same bound.
    """
    check_interval("delta", delta), check_interval("epsilon", epsilon)
    size = np.log(a / (np.asarray(delta) * np.asarray(epsilon))) * width_factor(
        check_interval("p", p, closed=True) * -np.expm1(-b)
    )
    return np.asarray(np.maximum(1, np.ceil(size)), dtype=np.int64)


def check_interval(name: str, value: ArrayLike, closed: bool = False) -> Floats:
    """Return `value` as an array after checking that it lies in (0, 1), or in (0, 1] if `closed`.

    Raises:
        UserError: a number lies outside the interval.
    """
    array = np.asarray(value, dtype=np.float64)
    wrong = ~((array > 0) & ((array <= 1) if closed else (array < 1)))
    if wrong.any():
        raise UserError(f"{name}={array[wrong].flat[0]:g}: must lie in (0, 1{']' if closed else ')'}")
    return array


def check_densities(m: Sequence[int], p: Sequence[float]) -> None:
    """Check that `p` has one density in (0, 1] for each layer of the source, one more than the target's layers.

    Raises:
        UserError: the number of densities is wrong, or a density lies outside (0, 1].
    """
    check_interval("p", p, closed=True)
    if len(p) != len(m) + 1:
        raise UserError(f"p={list(p)}: must have {len(m) + 1} densities, one for each layer of the source")


def _log_union(events: Any, delta: float) -> float:
    """Return log(events/delta), the term of a union bound over `events` events."""
    with np.errstate(divide="ignore"):
        return float(np.log(events) - np.log(check_interval("delta", delta)))


def _log_inverse_input_failure(delta: Floats, d: ArrayLike) -> Floats:
    """Return log(1 / (1 - (1-delta)^(1/d))), stable for many inputs."""
    return np.asarray(-np.log(-np.expm1(np.log1p(-delta) / np.asarray(d))))


def _round_up(value: Any) -> int:
    """Round up to an integer, with a relative slack of 1e-12 so that rounding errors do not raise exact integers."""
    return int(np.ceil(float(value) * (1 - 1e-12)))
