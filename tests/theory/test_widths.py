"""Width bounds compared to cases by hand, limits, and exact success probabilities."""

import math
from itertools import pairwise

import numpy as np
import pytest

from ersparse.errors import UserError
from ersparse.theory import widths
from ersparse.theory.success_probability import (
    connection_probability,
    two_hop_connection_probability,
    weak_ticket_probability,
)


def dense(sizes):
    return [np.ones((n, d), dtype=int) for d, n in pairwise(sizes)]


def test_the_width_factor_by_hand_and_in_the_limits():
    assert widths.width_factor(0.5) == pytest.approx(1 / math.log(2))
    assert widths.width_factor(1.0) == 0
    tiny = np.array([1e-3, 1e-9, 1e-15, 1e-300])
    np.testing.assert_allclose(widths.width_factor(tiny), 1 / tiny - 0.5, rtol=1e-4)  # two terms of its series
    assert math.log(1 / (1 - 1e-17)) == 0  # the naive formula would divide by 0
    p = np.linspace(0.001, 1, 500)
    assert (widths.width_factor_approximation(p) > widths.width_factor(p)).all()


def test_weak_copies_by_hand():
    # q_1 = log(2*3/.1)/log 2 = 5.9, q_0 = log(2*6*6/.1)/log 2 = 9.49
    assert widths.weak_copies_printed([6, 3], [1, 0.5, 0.5], 0.1) == [10, 6, 1]
    assert widths.weak_copies([6, 3], [1, 0.5, 0.5], 0.1) == [10, 6, 1]
    # p_0 = .5 leaves .25 for an input's copy: log(720)/log(4/3) = 22.87
    assert widths.weak_copies([6, 3], [0.5, 0.5, 0.5], 0.1) == [23, 6, 1]
    assert widths.weak_copies([1], [1, 0.5], 0.25) == [2, 1]  # an exact integer is not rounded up


@pytest.mark.parametrize("p", [0.03, 0.2, 0.5, 0.9])
@pytest.mark.parametrize("sizes", [(3, 5), (4, 2, 6), (1, 1, 1, 1), (7, 3, 8, 2, 5)])
def test_weak_copies_are_the_smallest_that_satisfy_the_proof(p, sizes):
    """In each layer q satisfies (1-p)^q m q_next <= delta/L, and q - 1 does not."""
    delta, m = 0.05, [a * b for a, b in pairwise(sizes)]
    q = widths.weak_copies(m, [1.0] + [p] * len(m), delta)
    for layer, size in enumerate(m):
        failing = lambda copies: size * q[layer + 1] * (1 - p) ** copies  # noqa: B023
        assert failing(q[layer]) <= delta / len(m) * (1 + 1e-9)
        assert q[layer] == 1 or failing(q[layer] - 1) > delta / len(m)


@pytest.mark.parametrize("p0", [0.05, 0.3, 1.0])
@pytest.mark.parametrize("p", [0.05, 0.3, 0.8, 1.0])
@pytest.mark.parametrize("delta", [0.001, 0.05, 0.5])
def test_at_the_corrected_width_the_exact_failure_is_at_most_delta(p0, p, delta):
    for sizes in ((3, 4), (5, 2, 3), (2, 6, 6, 1)):
        p_by_layer = [p0] + [p] * (len(sizes) - 1)
        m = [a * b for a, b in pairwise(sizes)]
        assert 1 - weak_ticket_probability(dense(sizes), widths.weak_copies(m, p_by_layer, delta), p_by_layer) <= delta


def test_only_nonzero_weights_count():
    """The nonzero weights (section 2) suffice for m; all weights (A.4) only make the source wider."""
    needed = [np.array([[1, 0, 0], [0, 0, 1]]), np.array([[1, 1]])]
    p = [1.0, 0.2, 0.2]
    fewer = widths.weak_copies([2, 2], p, 0.1)
    assert 1 - weak_ticket_probability(needed, fewer, p) <= 0.1
    assert fewer[0] < widths.weak_copies([6, 2], p, 0.1)[0]


def test_the_lower_bound_inverts_the_success_probability_with_every_output_edge():
    for p, d, delta in ((0.1, 1, 0.05), (0.4, 20, 0.2), (0.9, 1000, 0.01), (1e-9, 3, 0.5)):
        n = float(widths.width_lower_bound(p, delta, d))
        assert (1 - (1 - p) ** n) ** d == pytest.approx(1 - delta, rel=1e-5) or p < 1e-8
        assert float(connection_probability(n, p, d)) == pytest.approx(1 - delta, rel=1e-9)
    assert widths.width_lower_bound(0.5, 0.25, 1) == pytest.approx(2)  # (1/2)^2 = delta


def test_the_lower_bound_holds_for_every_network():
    """Below the bound the exact success probability is below 1 - delta, over a regular grid."""
    for p in np.linspace(0.02, 0.98, 25):
        for d in (1, 2, 7, 50, 1000):
            for delta in (0.01, 0.3, 0.9):
                n = math.ceil(float(widths.width_lower_bound(p, delta, d))) - 1
                assert two_hop_connection_probability(n, p, p, d) < 1 - delta + 1e-12


def test_the_subset_sum_size_by_hand_and_in_the_limits():
    # p = 1: a e^(-bn)/eps <= delta, n = log(2/(.1*.1))/.5 = 10.6
    assert widths.subset_sum_size(1.0, 0.1, 0.1, 2, 0.5) == 11
    small = widths.subset_sum_size(1e-12, 0.1, 0.1, 2, 0.5)  # the lemma's factor 1/p appears
    assert small * 1e-12 == pytest.approx(math.log(200) / (1 - math.exp(-0.5)), rel=1e-6)
    for p in (0.05, 0.4, 1.0):
        n = int(widths.subset_sum_size(p, 0.05, 0.01, 3, 0.6))
        tail = lambda n: 3 / 0.01 * (1 - p + p * math.exp(-0.6)) ** n  # noqa: B023
        assert tail(n) <= 0.05 < tail(n - 1)


def test_the_subset_sum_size_averages_over_the_numbers_present():
    """The proof uses E over k ~ Bin(n, p) of e^(-bk), which is summed term by term here."""
    n, p, b = 30, 0.3, 0.6
    summed = sum(math.comb(n, k) * p**k * (1 - p) ** (n - k) * math.exp(-b * k) for k in range(n + 1))
    assert summed == pytest.approx((1 - p * (1 - math.exp(-b))) ** n)


@pytest.mark.parametrize(
    "call, line",
    [
        (lambda: widths.width_factor(0), "p=0: must lie in (0, 1]"),
        (lambda: widths.width_factor([0.5, 1.5]), "p=1.5: must lie in (0, 1]"),
        (lambda: widths.width_factor(np.nan), "p=nan: must lie in (0, 1]"),
        (lambda: widths.weak_copies([1], [1, 0.5], 1), "delta=1: must lie in (0, 1)"),
        (lambda: widths.weak_copies([1], [1, 0.5], 0), "delta=0: must lie in (0, 1)"),
        (lambda: widths.weak_copies([1], [0.5], 0.5), "p=[0.5]: must have 2 densities"),
        (lambda: widths.width_lower_bound(0.5, 2, 3), "delta=2: must lie in (0, 1)"),
        (lambda: widths.subset_sum_size(0.5, 0.1, 1.0, 1, 1), "epsilon=1: must lie in (0, 1)"),
        (lambda: widths.subset_sum_size_printed(0.5, 0.1, -1.0), "epsilon=-1: must lie in (0, 1)"),
    ],
)
def test_invalid_arguments_are_rejected(call, line):
    with pytest.raises(UserError) as error:
        call()
    assert str(error.value).startswith(line) and "\n" not in str(error.value)
