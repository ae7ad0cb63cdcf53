"""The subset-sum solver compared to brute force."""

import itertools

import numpy as np
import pytest

from ersparse.theory.subset_sum import all_sums, nearest, solve


def smallest_error(x, z):
    """Return the smallest error over all subsets."""
    return min(abs(z - sum(part)) for size in range(len(x) + 1) for part in itertools.combinations(x, size))


@pytest.mark.parametrize("n", range(11))
def test_solve_is_optimal_by_enumeration(n):
    random = np.random.default_rng(n)
    for _ in range(10):
        x, z = random.uniform(-1, 1, n), float(random.uniform(-1.5, 1.5))
        chosen = solve(x, z)
        assert abs(z - x[chosen].sum()) == pytest.approx(smallest_error(x, z), abs=1e-12)


@pytest.mark.parametrize("n", [14, 17, 20])
def test_nearest_is_optimal_by_a_matrix_of_subsets(n):
    """The 2^n sums are computed independently of `nearest`, by a matrix product over all bit patterns."""
    random = np.random.default_rng(n)
    x = random.uniform(-1, 1, n)
    bits = (np.arange(2**n)[:, None] >> np.arange(n)) & 1
    sums = bits @ x
    targets = random.uniform(-2, 2, 20)
    codes, errors = nearest(x, targets)
    for z, code, error in zip(targets, codes, errors, strict=True):
        assert error == pytest.approx(np.abs(z - sums).min(), abs=1e-12)
        assert abs(z - sums[code]) == pytest.approx(error, abs=1e-12)


def test_all_sums_by_hand():
    assert all_sums([1, 10, 100]).tolist() == [0, 1, 10, 11, 100, 101, 110, 111]


def test_solve_handles_ties_and_empty_sets():
    assert solve([0.5, 0.5, 0.5], 1.0).sum() == 2
    assert not solve([], 0.7).any() and solve([], 0.7).shape == (0,)
    assert not solve([0.3, -0.2], 0.0).any()


@pytest.mark.parametrize("n", [31, 60, 200])
def test_solve_is_accurate_for_many_numbers(n):
    random = np.random.default_rng(n)
    for z in (0.3, -1.0, 0.2 * n):  # the last is near the largest subset sum, about n/4
        x = random.uniform(-1, 1, n)
        assert abs(z - x[solve(x, z, 1e-9)].sum()) < 1e-4


def test_more_rounds_never_increase_the_error():
    random = np.random.default_rng(3)
    for _ in range(20):
        x, z = random.uniform(-1, 1, 40), float(random.uniform(-2, 2))
        rounds = [abs(z - x[solve(x, z, rounds=r, exact=10)].sum()) for r in (0, 1, 5, 20)]
        assert rounds == sorted(rounds, reverse=True)
