"""The counters' laws against every mask of small layers, enumerated, and every choice of the repair."""

import itertools

import numpy as np
import pytest

from ersparse.report.analysis import closed_form

CASES = [((2, 3), 0.3), ((3, 2), 0.6), ((2, 2, 1, 2), 0.25), ((3, 3), 0.15), ((1, 4), 0.5), ((4, 1), 0.5)]


def masks(shape, p):
    """(probability, edges [n_out, n_in]) of every mask."""
    size = int(np.prod(shape))
    for bits in itertools.product((False, True), repeat=size):
        kept = np.array(bits).reshape(shape[0], shape[1], -1)
        yield p ** kept.sum() * (1 - p) ** (size - kept.sum()), kept.any(2)


def moments_of(outcomes):
    """Mean and variance of (probability, count)."""
    weight, count = np.array(list(outcomes)).T
    mean = weight @ count
    return pytest.approx((mean, weight @ (count - mean) ** 2), abs=1e-12)


@pytest.mark.parametrize("shape, p", CASES)
def test_pairs(shape, p):
    expected = np.zeros(3)
    for weight, edges in masks(shape, p):
        expected[int((~edges.any(1)).any()) + int((~edges.any(0)).any())] += weight
    assert closed_form.pair_distribution([(shape, p)]) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("shape, p", CASES)
def test_edges_in(shape, p):
    expected = moments_of((weight, (~edges.any(1)).sum()) for weight, edges in masks(shape, p))
    assert tuple(closed_form.edges_in([(shape, p)])) == expected


@pytest.mark.parametrize("shape, p", CASES)
def test_edges_out(shape, p):
    """Each empty row gets its weight in any column alike, then the empty columns are counted."""

    def repaired():
        for weight, edges in masks(shape, p):
            empty = np.flatnonzero(~edges.any(1))
            for choice in itertools.product(range(shape[1]), repeat=len(empty)):
                filled = edges.copy()
                filled[empty, choice] = True
                yield weight / shape[1] ** len(empty), (~filled.any(0)).sum()

    assert tuple(closed_form.edges_out([(shape, p)])) == moments_of(repaired())


def test_layers_add_up():
    """Means and variances of independent layers, and the distribution's own."""
    one, two = closed_form.pair_distribution(CASES[:1]), closed_form.pair_distribution(CASES[1:2])
    both = closed_form.moments(closed_form.pair_distribution(CASES[:2]))
    assert both.mean == pytest.approx(closed_form.moments(one).mean + closed_form.moments(two).mean)
    assert both.variance == pytest.approx(closed_form.moments(one).variance + closed_form.moments(two).variance)


def test_a_large_layer_is_exact_where_terms_cancel():
    """512 columns: terms of 10^150 cancel; rows and columns are nearly independent, so the law is nearly a product."""
    found = closed_form.pair_distribution([((512, 512, 3, 3), 0.0012)])
    row = 1 - (1 - (1 - 0.0012) ** 4608) ** 512
    assert found.sum() == pytest.approx(1, abs=1e-12) and (found >= -1e-12).all()
    assert found @ [0, 1, 2] == pytest.approx(2 * row, abs=1e-12)
    assert found[2] >= row**2 and found[2] == pytest.approx(row**2, rel=0.05)


def test_dense_and_empty_layers_leave_nothing_to_chance():
    assert closed_form.pair_distribution([((3, 4), 1.0)]).tolist() == [1, 0, 0]
    assert closed_form.pair_distribution([((3, 4), 0.0)]).tolist() == [0, 0, 1]
    assert closed_form.moments(np.array([0.0, 0, 1])).z(6, 3) is None


def test_chance_is_two_sided():
    coin = np.array([0.5, 0.5])
    assert closed_form.tail_probability(coin, 4, 4) == pytest.approx(2 / 16)
    assert closed_form.tail_probability(coin, 2, 4) == 1
