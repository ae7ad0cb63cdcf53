"""Closed-form distributions against the enumeration of all masks of small layers, and of all choices of repair."""

import itertools

import numpy as np
import pytest

from ersparse.report.analysis import closed_form

CASES = [((2, 3), 0.3), ((3, 2), 0.6), ((2, 2, 1, 2), 0.25), ((3, 3), 0.15), ((1, 4), 0.5), ((4, 1), 0.5)]


def masks(shape, p):
    """Yield (probability, edges [n_out, n_in]) of every mask."""
    size = int(np.prod(shape))
    for bits in itertools.product((False, True), repeat=size):
        kept = np.array(bits).reshape(shape[0], shape[1], -1)
        yield p ** kept.sum() * (1 - p) ** (size - kept.sum()), kept.any(2)


def moments_of(outcomes):
    """Return mean and variance of (probability, count) pairs, to be compared approximately."""
    weight, count = np.array(list(outcomes)).T
    mean = weight @ count
    return pytest.approx((mean, weight @ (count - mean) ** 2), abs=1e-12)


@pytest.mark.parametrize("shape, p", CASES)
def test_pair_distribution_equals_enumeration(shape, p):
    expected = np.zeros(3)
    for weight, edges in masks(shape, p):
        expected[int((~edges.any(1)).any()) + int((~edges.any(0)).any())] += weight
    assert closed_form.pair_distribution([(shape, p)]) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("shape, p", CASES)
def test_added_in_edges_equal_enumeration(shape, p):
    expected = moments_of((weight, (~edges.any(1)).sum()) for weight, edges in masks(shape, p))
    assert tuple(closed_form.edges_in([(shape, p)])) == expected


@pytest.mark.parametrize("shape, p", CASES)
def test_added_out_edges_equal_enumeration(shape, p):
    """Each empty row gets one weight in a uniformly random column; then the empty columns are counted."""

    def repaired():
        for weight, edges in masks(shape, p):
            empty = np.flatnonzero(~edges.any(1))
            for choice in itertools.product(range(shape[1]), repeat=len(empty)):
                filled = edges.copy()
                filled[empty, choice] = True
                yield weight / shape[1] ** len(empty), (~filled.any(0)).sum()

    assert tuple(closed_form.edges_out([(shape, p)])) == moments_of(repaired())


def test_moments_of_independent_layers_add_up():
    """The moments of the convolution are the sums of the layers' moments."""
    one, two = closed_form.pair_distribution(CASES[:1]), closed_form.pair_distribution(CASES[1:2])
    both = closed_form.moments(closed_form.pair_distribution(CASES[:2]))
    assert both.mean == pytest.approx(closed_form.moments(one).mean + closed_form.moments(two).mean)
    assert both.variance == pytest.approx(closed_form.moments(one).variance + closed_form.moments(two).variance)


def test_large_layer_is_exact_despite_cancellation():
    """With 512 columns, terms of 10^150 cancel; rows and columns are nearly independent."""
    found = closed_form.pair_distribution([((512, 512, 3, 3), 0.0012)])
    row = 1 - (1 - (1 - 0.0012) ** 4608) ** 512
    assert found.sum() == pytest.approx(1, abs=1e-12) and (found >= -1e-12).all()
    assert found @ [0, 1, 2] == pytest.approx(2 * row, abs=1e-12)
    assert found[2] >= row**2 and found[2] == pytest.approx(row**2, rel=0.05)


def test_dense_and_empty_layers_have_constant_counts():
    assert closed_form.pair_distribution([((3, 4), 1.0)]).tolist() == [1, 0, 0]
    assert closed_form.pair_distribution([((3, 4), 0.0)]).tolist() == [0, 0, 1]
    assert closed_form.moments(np.array([0.0, 0, 1])).z(6, 3) is None


def test_tail_probability_is_two_sided():
    coin = np.array([0.5, 0.5])
    assert closed_form.tail_probability(coin, 4, 4) == pytest.approx(2 / 16)
    assert closed_form.tail_probability(coin, 2, 4) == 1
