"""Statistics against scipy, and the number of seeds against a simulation."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as oracle

from ersparse.report.analysis.stats import MANY, paired, seeds_needed, summary, welch

POINTS = st.floats(0, 100).map(lambda x: round(x, 6))
VALUES = st.lists(POINTS, min_size=2, max_size=12)
CLOSE = {"rel": 1e-12, "abs": 1e-12}


@given(VALUES)
def test_summary_equals_scipy(values):
    found = summary(values)
    assert (found.n, found.mean) == (len(values), pytest.approx(np.mean(values), **CLOSE))
    assert found.sd == pytest.approx(np.std(values, ddof=1), rel=1e-12, abs=1e-10)
    if found.sd > 1e-6:
        low, high = oracle.t.interval(0.95, len(values) - 1, np.mean(values), oracle.sem(values))
        assert (found.low, found.high) == (pytest.approx(low, **CLOSE), pytest.approx(high, **CLOSE))


def test_single_value_has_no_standard_deviation():
    assert summary([3.0]).mean == 3.0 and summary([3.0]).sd is None and summary([3.0]).low is None
    assert summary([]).n == 0 and summary([]).mean is None


@given(VALUES, st.data())
def test_paired_interval_equals_ttest_rel(values, data):
    others = data.draw(
        st.lists(st.floats(0, 100).map(lambda x: round(x, 6)), min_size=len(values), max_size=len(values))
    )
    found = paired(dict(enumerate(values)), dict(enumerate(others)) | {99: 1.0})
    assert found.n == len(values)
    if found.sd > 1e-6:
        low, high = oracle.ttest_rel(values, others).confidence_interval(0.95)
        assert (found.low, found.high) == (pytest.approx(low, **CLOSE), pytest.approx(high, **CLOSE))


@given(VALUES, VALUES)
def test_welch_interval_equals_ttest_ind(one, two):
    found = welch(summary(one), np.mean(two), np.std(two, ddof=1), len(two))
    if np.std(one) > 1e-6 and np.std(two) > 1e-6:
        low, high = oracle.ttest_ind(one, two, equal_var=False).confidence_interval(0.95)
        assert found == (pytest.approx(low, **CLOSE), pytest.approx(high, **CLOSE))


def test_welch_needs_two_values_in_each_sample():
    assert welch(summary([1.0]), 1, 1, 3) is None and welch(summary([1.0, 2.0]), 1, 1, 1) is None
    assert welch(summary([1.0, 1.0]), 3, 0, 3) == (-2, -2)


@pytest.mark.parametrize("effect", [0.15, 0.5, 1.0, 3.0, 10.0])
def test_seeds_needed_is_the_smallest_number_with_the_power(effect):
    """By scipy's noncentral t distribution, the power is at least 0.8 at n, and less at n - 1."""
    n = seeds_needed(-effect, 1.0)
    power = [_power(effect, each) for each in (n - 1, n)]
    assert power[1] >= 0.8 and (n == 2 or power[0] < 0.8)


def _power(effect, n):
    if n < 2:
        return 0.0
    edge = oracle.t.ppf(0.975, n - 1)
    return oracle.nct.sf(edge, n - 1, effect * math.sqrt(n)) + oracle.nct.cdf(-edge, n - 1, effect * math.sqrt(n))


def test_seeds_needed_has_the_power_in_a_simulation():
    """40 000 experiments with an effect of 1: a power of 0.8 within 5 standard deviations (probability 6e-7)."""
    n, trials = seeds_needed(1.0, 1.0), 40_000
    draws = np.random.default_rng().normal(1.0, 1.0, (trials, n))
    seen = (oracle.ttest_1samp(draws, 0, axis=1).pvalue < 0.05).mean()
    truth = _power(1.0, n)
    assert abs(seen - truth) < 5 * math.sqrt(truth * (1 - truth) / trials) and truth == pytest.approx(0.8, abs=0.03)


def test_seeds_needed_in_limiting_cases():
    assert seeds_needed(0.0, 1.0) is None and seeds_needed(0.001, 1.0) is None
    assert seeds_needed(1.0, 0.0) == 2 and seeds_needed(0.0, 0.0) is None
    assert MANY == 1000
