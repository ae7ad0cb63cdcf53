"""Success probabilities compared to enumeration over all masks, and simulation compared to probabilities."""

import itertools
import math

import numpy as np
import pytest
from scipy.stats import binom, binomtest, norm

from ersparse.theory.networks import affine_layers, nonzero_elements, random_target
from ersparse.theory.success_probability import (
    connection_probability,
    simulate_weak_ticket,
    two_hop_connection_probability,
    weak_ticket_probability,
    wilson_interval,
)
from ersparse.theory.weak import MissingRepresentative, weak_ticket

UNLIKELY = 1e-6


def agrees(successes: int, trials: int, probability: float) -> bool:
    """Return whether a two-sided binomial test accepts `probability`; it rejects a true one once in a million."""
    return binomtest(successes, trials, probability).pvalue > UNLIKELY


def test_the_wilson_interval_by_hand_and_at_the_ends():
    # 10 of 20, z = 1.96: 0.5 +- z sqrt(.25/20 + z^2/1600)/(1 + z^2/20) = 0.5 +- 0.2007
    low, high = wilson_interval(10, 20)
    assert (low, high) == (pytest.approx(0.2993, abs=1e-4), pytest.approx(0.7007, abs=1e-4))
    assert wilson_interval(0, 20)[0] == 0 and wilson_interval(20, 20)[1] == 1
    z = norm.ppf(0.975)
    for successes in (0, 3, 20):
        share, weight = successes / 20, z**2 / 20
        middle, half = share + weight / 2, z * math.sqrt(share * (1 - share) / 20 + weight / 80)
        expected = (middle - half) / (1 + weight), (middle + half) / (1 + weight)
        assert wilson_interval(successes, 20) == pytest.approx(expected, abs=1e-12)


def test_connection_probability_by_hand_and_at_small_probabilities():
    assert connection_probability(2, 0.5, 3) == pytest.approx(0.75**3)
    assert (
        connection_probability(0, 0.5, 3) == 0
        and connection_probability(0, 0.5, 0) == 1
        and connection_probability(5, 1.0, 7) == 1
    )
    assert 1 - connection_probability(3, 1 - 1e-6, 1) == pytest.approx(1e-18, abs=1e-16)


def test_two_hop_connection_probability_by_enumerating_every_mask():
    """Two inputs, three hidden neurons and one output have 2^9 masks, each with its probability."""
    n, d, p, total = 3, 2, 0.3, 0.0
    for bits in itertools.product([0, 1], repeat=n * (d + 1)):
        first, last = np.reshape(bits[: n * d], (n, d)), np.array(bits[n * d :])
        if (last @ first > 0).all():
            total += p ** sum(bits) * (1 - p) ** (len(bits) - sum(bits))
    assert two_hop_connection_probability(n, p, p, d) == pytest.approx(total, rel=1e-12)


def test_two_hop_connection_probability_of_one_input():
    assert two_hop_connection_probability(7, 0.3, 0.4, 1) == pytest.approx(1 - (1 - 0.12) ** 7)


def test_weak_ticket_probability_by_enumerating_every_mask():
    """Every mask is enumerated for two layers of one neuron with two copies."""
    copies, p = [2, 2, 1], [0.6, 0.5, 0.7]
    total = 0.0
    shapes = [(2,), (2, 2), (2,)]
    for bits in itertools.product([0, 1], repeat=8):
        zero, one, two = (
            np.reshape(part, shape) for part, shape in zip((bits[:2], bits[2:6], bits[6:]), shapes, strict=True)
        )
        found = (one @ zero > 0).all() and two.any()
        chance = [
            [q if bit else 1 - q for bit in np.ravel(layer)] for layer, q in zip((zero, one, two), p, strict=True)
        ]
        total += math.prod(itertools.chain(*chance)) * found
    needed = [np.array([[1]]), np.array([[1]])]
    assert weak_ticket_probability(needed, copies, p) == pytest.approx(total, rel=1e-12)


@pytest.mark.parametrize("every", [True, False])
@pytest.mark.parametrize("p0", [0.5, 1.0])
def test_lazily_drawn_edges_succeed_as_often_as_constructed_tickets(every, p0):
    """The frequency equals that of tickets constructed in drawn masks; the test fails by chance once in a million."""
    random = np.random.default_rng(5)
    target = random_target([2, 3, 2], 0.8, random)
    needed, copies, p, trials = nonzero_elements(affine_layers(target)), [4, 3, 1], [p0, 0.5, 0.6], 1500
    lazy = sum(simulate_weak_ticket(needed, copies, p, random, every) for _ in range(trials))
    built = 0
    for seed in range(trials):
        try:
            weak_ticket(target, copies, p, seed, low=-1, every_copy=every)
            built += 1
        except MissingRepresentative:
            pass
    pooled = (lazy + built) / (2 * trials)
    assert abs(lazy - built) / trials < 4.9 * math.sqrt(2 * pooled * (1 - pooled) / trials)
    if every:
        exact = weak_ticket_probability(needed, copies, p)
        assert agrees(lazy, trials, exact) and agrees(built, trials, exact)
    else:
        assert lazy / trials > weak_ticket_probability(needed, copies, p)


def test_lazily_drawn_edges_of_kernels_agree_with_the_probability():
    needed, copies, p = [np.array([[9, 4]]), np.array([[9]])], [6, 5, 1], [0.7, 0.5, 0.4]
    random, trials = np.random.default_rng(0), 4000
    assert agrees(
        sum(simulate_weak_ticket(needed, copies, p, random) for _ in range(trials)),
        trials,
        weak_ticket_probability(needed, copies, p),
    )


def test_a_layer_with_2e8_possible_edges_is_simulated():
    """With p = .004 and a hundred inputs there are 2.2e8 possible edges, but 18 000 draws."""
    needed, p = [np.ones((10, 100), dtype=int)], [1.0, 0.004]
    copies = [22000 // 10, 1]
    random, trials = np.random.default_rng(1), 100
    successes = sum(simulate_weak_ticket(needed, copies, p, random) for _ in range(trials))
    assert agrees(successes, trials, float(binom.pmf(0, 1000, (1 - 0.004) ** 2200)))
