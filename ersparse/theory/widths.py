"""How wide an ER source network must be: Theorems 2.4 to 2.7 and Lemma 2.1, as printed and as corrected.

`docs/theory.md` says where the two differ, and why. Densities lie in (0, 1]; failure probabilities and errors in
(0, 1). Everything is stable as p -> 0, and takes arrays where it takes numbers, unless a layer follows from the next.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ersparse.errors import UserError

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


def factor(p: ArrayLike) -> Floats:
    """1/log(1/(1-p)), the paper's overparametrisation: 1/p - 1/2 - O(p) for small p, and 0 at p = 1."""
    p = in_interval("p", p, closed=True)
    with np.errstate(divide="ignore"):
        return np.asarray(-1 / np.log1p(-p))


def factor_approximation(p: ArrayLike) -> Floats:
    """1/p, which the paper puts in place of `factor` where p is small. It is larger for every p."""
    return np.asarray(1 / in_interval("p", p, closed=True))


def weak_copies_printed(m: Sequence[int], p: Sequence[float], delta: float) -> list[int]:
    """q_0..q_L of Theorems 2.4 (L = 2), 2.5 and 2.6 as printed, rounded up.

    Args:
        m: weights m_1..m_L of the target's layers.
        p: densities p_0..p_L of the source's layers; p_0 does not enter.
        delta: how often the construction may fail.
    """
    copies = [1]
    for size, density in zip(reversed(m), reversed(p[1:]), strict=True):
        copies.insert(0, _round_up(factor(density) * _log_sets(len(m) * size * max(copies[0], 1), delta)))
    return copies


def weak_copies(m: Sequence[int], p: Sequence[float], delta: float) -> list[int]:
    """q_0..q_L that do: as printed, but at least one copy, and with p_0 counted in the first layer.

    A neuron of layer 0 serves a target weight if it has its input's edge (p_0) and the edge onwards (p_1), so the
    union bound over the weights of layer 1 has p_0 p_1 for p_1. With univariate blocks given, p_0 is 1.
    """
    check_layers(m, p)
    in_interval("delta", delta)
    copies, onwards = [1], [p[0] * p[1], *p[2:]]
    for size, density in zip(reversed(m), reversed(onwards), strict=True):
        needed = factor(density) * _log_sets(len(m) * max(size, 1) * copies[0], delta)
        copies.insert(0, max(1, _round_up(needed)))
    return copies


def lower_bound(p: ArrayLike, delta: ArrayLike, d: ArrayLike) -> Floats:
    """Theorem 2.7: a hidden layer below this width has a path from all d inputs with probability less than 1-delta.

    It holds as printed: with every output link kept, success would be (1-(1-p)^n)^d.
    """
    return np.asarray(factor(p) * _log_over_tail(in_interval("delta", delta), d))


def lower_bound_of_the_proof(p: ArrayLike, delta: ArrayLike, d: ArrayLike) -> Floats:
    """The larger number of A.6, with p^2 for p. It takes paths for independent, and does not hold."""
    return np.asarray(factor(in_interval("p", p, closed=True) ** 2) * _log_over_tail(in_interval("delta", delta), d))


def subset_sum_size_printed(p: ArrayLike, delta: ArrayLike, epsilon: ArrayLike, constant: float = 1.0) -> Floats:
    """Lemma 2.1 as printed, equation (1). It falls to 0 as p -> 1, whatever the constant."""
    smaller = np.minimum(in_interval("delta", delta), in_interval("epsilon", epsilon))
    return np.asarray(constant * factor(p) * -np.log(smaller))


def subset_sum_size(p: ArrayLike, delta: ArrayLike, epsilon: ArrayLike, a: float, b: float) -> Integers:
    """The form of Lemma 2.1 that holds: n >= log(a/(delta epsilon)) / -log(1 - p (1 - e^-b)), rounded up.

    Args:
        a, b: constants of P(no subset of k uniforms is within epsilon) <= a e^(-b k) / epsilon.
    """
    in_interval("delta", delta), in_interval("epsilon", epsilon)
    size = np.log(a / (np.asarray(delta) * np.asarray(epsilon))) * factor(
        in_interval("p", p, closed=True) * -np.expm1(-b)
    )
    return np.asarray(np.maximum(1, np.ceil(size)), dtype=np.int64)


def in_interval(name: str, value: ArrayLike, closed: bool = False) -> Floats:
    """`value`, every number of which lies in (0, 1), or in (0, 1] if `closed`.

    Raises:
        UserError: one does not.
    """
    array = np.asarray(value, dtype=np.float64)
    wrong = ~((array > 0) & ((array <= 1) if closed else (array < 1)))
    if wrong.any():
        raise UserError(f"{name}={array[wrong].flat[0]:g}: must lie in (0, 1{']' if closed else ')'}")
    return array


def check_layers(m: Sequence[int], p: Sequence[float]) -> None:
    """One density for every layer of the source, which has one more than the target."""
    in_interval("p", p, closed=True)
    if len(p) != len(m) + 1:
        raise UserError(f"p={list(p)}: must have {len(m) + 1} densities, one for each layer of the source")


def _log_sets(events: Any, delta: float) -> float:
    """log(events/delta): the union bound over so many events."""
    with np.errstate(divide="ignore"):
        return float(np.log(events) - np.log(in_interval("delta", delta)))


def _log_over_tail(delta: Floats, d: ArrayLike) -> Floats:
    """log(1 / (1 - (1-delta)^(1/d))), stable for many inputs."""
    return np.asarray(-np.log(-np.expm1(np.log1p(-delta) / np.asarray(d))))


def _round_up(value: Any) -> int:
    """To an integer, with a relative slack of 1e-12 so that exact integers stay."""
    return int(np.ceil(float(value) * (1 - 1e-12)))
