"""Errata of the paper, each confirmed or refuted by a counterexample.

docs/theory.md lists all of them. Other tests cover padded borders and the centre tap of convolutions (test_weak),
equation (3), rho and gamma (test_strong), and whether m counts nonzero or all weights (test_widths).
"""

import math

import numpy as np
import pytest
import torch
from scipy.special import eval_laguerre

from ersparse.errors import UserError
from ersparse.theory.error_tolerances import FITTED_A, FITTED_B
from ersparse.theory.networks import affine_layers, random_target, source_network
from ersparse.theory.subset_sum import nearest
from ersparse.theory.success_probability import (
    connection_probability,
    simulate_weak_ticket,
    two_hop_connection_probability,
    weak_ticket_probability,
)
from ersparse.theory.weak import weak_ticket
from ersparse.theory.widths import (
    subset_sum_size,
    subset_sum_size_printed,
    weak_copies,
    weak_copies_printed,
    width_lower_bound,
    width_lower_bound_of_proof,
)


def failure_lower_bound(n):
    """Return P(the positive numbers among n from U[-1, 1] have a sum below 1), in which case no subset reaches 1.

    The sum of j uniforms is below 1 with probability 1/j!, so it is the sum over j of C(n, j) 2^-n / j! = 2^-n L_n(-1).
    """
    return 2.0**-n * eval_laguerre(n, -1)


def test_the_failure_lower_bound_agrees_with_simulation():
    random, trials = np.random.default_rng(0), 40_000
    for n in (2, 4, 9):
        x = random.uniform(-1, 1, (trials, n))
        share = (np.maximum(x, 0).sum(1) < 1).mean()
        expected = failure_lower_bound(n)
        assert abs(share - expected) < 5 * math.sqrt(expected * (1 - expected) / trials)


def test_no_constant_makes_the_printed_lemma_2_1_hold():
    """Confirmed. For each C the printed n falls below 1 for some p near 1, but one number reaches 1 within eps only
    with probability eps/2."""
    delta = epsilon = 0.01
    for constant in (1.0, 10.0, 1000.0):
        p = -math.expm1(-2 * constant * math.log(100))  # 1 - 100^(-2C)
        if p < 1:
            assert subset_sum_size_printed(p, delta, epsilon, constant) == pytest.approx(0.5)
        else:
            assert subset_sum_size_printed(p, delta, epsilon, constant) == 0
    random = np.random.default_rng(0)
    reach = np.mean([nearest(random.uniform(-1, 1, 1), [1.0])[1][0] <= epsilon for _ in range(20_000)])
    assert reach == pytest.approx(epsilon / 2, abs=0.0025) and reach < 1 - delta  # five standard errors
    n = int(subset_sum_size(1.0, delta, epsilon, FITTED_A, FITTED_B))
    assert n > 1 and failure_lower_bound(n) <= delta


def test_a_2_prints_exp_of_minus_n_for_exp_of_minus_b():
    """Confirmed. At p = 1 the printed form is n >= log(a/(delta eps))/n, four numbers, which fail too often."""
    delta = epsilon = 0.01
    n = math.ceil(math.sqrt(math.log(FITTED_A / (delta * epsilon))))
    assert n == 4 and failure_lower_bound(n) > 10 * delta
    assert failure_lower_bound(int(subset_sum_size(1.0, delta, epsilon, FITTED_A, FITTED_B))) <= delta


@pytest.mark.parametrize("p", [0.3, 0.7, 1.0])
def test_the_corrected_lemma_2_1_holds(p):
    """At the corrected n a fraction of at most delta fails, with a margin of 4.9 standard errors (one in a million)."""
    delta, epsilon, trials = 0.05, 0.05, 600
    n, random = int(subset_sum_size(p, delta, epsilon, FITTED_A, FITTED_B)), np.random.default_rng(7)
    missed = 0
    for _ in range(trials):
        missed += nearest(random.uniform(-1, 1, random.binomial(n, p)), [1.0])[1][0] > epsilon
    assert missed / trials <= delta + 4.9 * math.sqrt(delta * (1 - delta) / trials)


def test_the_width_of_a_layer_depends_on_the_tolerance_of_the_next():
    """Confirmed. The printed n_(S,l) uses epsilon_l, but layer l+1 determines it, so epsilon_(l+1)."""
    first, second, delta, trials = 0.2, 0.002, 0.05, 400
    printed, ours = (int(subset_sum_size(1.0, delta, epsilon, FITTED_A, FITTED_B)) for epsilon in (first, second))
    random = np.random.default_rng(0)
    missed = [
        np.mean([nearest(random.uniform(-1, 1, n), [1.0])[1][0] > second for _ in range(trials)])
        for n in (printed, ours)
    ]
    assert missed[0] > 0.2 > delta > missed[1] - 4.9 * math.sqrt(delta / trials)


def test_the_output_layer_has_no_copies():
    """Confirmed: l <= L-1. If n_(S,L) exceeded n_(T,L), the source would have more outputs than the target."""
    target = random_target([2, 3, 2], 1, np.random.default_rng(0))
    with pytest.raises(UserError, match="the last 1"):
        weak_ticket(target, [30, 9, 2], [1.0, 0.5, 0.5], 0)


def test_the_number_of_weights_depends_on_the_layer():
    """Confirmed. With N_l = n_L n_(L-1), widths 2-3-1 would have 2 * 3 = 6 weights, but they have 9."""
    stages = affine_layers(random_target([2, 3, 1], 1, np.random.default_rng(0)))
    assert sum(stage.weight.numel() for stage in stages) == 9 != 2 * 1 * 3


def test_the_printed_widths_are_zero_at_p_1():
    """Confirmed. With q = 0 there is no network; one copy suffices and always exists."""
    target, p = random_target([2, 3, 2], 1, np.random.default_rng(0)), [1.0] * 3
    assert weak_copies_printed([6, 6], p, 0.05) == [0, 0, 1]
    with pytest.raises(UserError, match=r"layer 0 must have 1 or more; 1 would suffice"):
        weak_ticket(target, weak_copies_printed([6, 6], p, 0.05), p, 0)
    assert weak_copies([6, 6], p, 0.05) == [1, 1, 1]
    weak_ticket(target, [1, 1, 1], p, 0)


def test_the_printed_index_sets_overlap():
    """Confirmed. {q i, ..., q i + q} has q + 1 elements; blocks 0 and 1 share one, and the last exceeds the layer."""
    q, n = 3, 4
    printed = [set(range(q * i, q * i + q + 1)) for i in range(n)]
    assert all(len(block) == q + 1 for block in printed)
    assert printed[0] & printed[1] == {3} and max(printed[-1]) == q * n  # of neurons 0 .. q n - 1
    ours = [neuron for i in range(n) for neuron in range(q * i, q * i + q)]
    assert ours == list(range(q * n))


def test_p_0_cannot_be_arbitrary():
    """Confirmed. At the printed width, which ignores p_0, the ticket hardly ever exists; with p_0 p_1 it does."""
    needed, p, delta = [np.ones((4, 4), dtype=int)] * 2, [0.1, 0.3, 0.3], 0.05
    printed, ours = (function([16, 16], p, delta) for function in (weak_copies_printed, weak_copies))
    assert weak_ticket_probability(needed, printed, p) < 1e-6 and 1 - weak_ticket_probability(needed, ours, p) <= delta
    random = np.random.default_rng(0)
    assert sum(simulate_weak_ticket(needed, printed, p, random) for _ in range(300)) == 0
    assert sum(simulate_weak_ticket(needed, ours, p, random) for _ in range(300)) > 300 * (1 - delta) - 4.9 * math.sqrt(
        300 * delta
    )


def test_p_0_cannot_be_arbitrary_if_flow_is_preserved():
    """Confirmed. If p_0 -> 0 and each neuron of layer 0 gets one random edge, some blocks are much smaller than q_0."""
    d, hidden, p, delta = 16, 8, 0.8, 0.05
    q = weak_copies_printed([d * hidden], [1.0, p], delta)[0]
    random = np.random.default_rng(0)
    sizes = random.multinomial(q * d, [1 / d] * d, size=2000)
    success = float(connection_probability(sizes, p, hidden).prod(1).mean())
    assert float(connection_probability(q, p, hidden * d)) >= 1 - delta > 0.5 > success


def test_the_source_kernel_has_the_copies_of_its_inputs():
    """Confirmed. Theorem 2.6 prints q_l c_l x c_(l-1) x k_l; then layer l could not take the output of layer l-1."""
    target = random_target([2, 3, 4], 1, np.random.default_rng(0), [3, 3])
    first, _, second = source_network(affine_layers(target), [5, 1])
    assert first.weight.shape == (5 * 3, 2, 3, 3) and second.weight.shape == (4, 5 * 3, 3, 3)
    with pytest.raises(RuntimeError, match="channels"):
        torch.nn.functional.conv2d(torch.ones(1, 15, 5, 5), torch.ones(4, 3, 3, 3))


def test_the_bias_compensation_sums_over_the_inputs():
    """Confirmed. A.3 and A.4 print b - w_ij b_0 for one j, without the sum over j."""
    target = random_target([3, 1], 1, np.random.default_rng(0))
    ticket = weak_ticket(target, [12, 1], [1.0, 0.6], 0, low=-1)
    weight, bias, ours = target[0].weight.detach(), target[0].bias.detach(), ticket.network[2].bias.detach()
    assert float(ours - (bias - weight.sum())) == pytest.approx(0)
    assert abs(float(bias - weight[0, 0] - ours)) > 0.1


def test_paths_from_different_inputs_are_not_independent():
    """Confirmed. They share output edges, which makes success more likely than the product in A.6."""
    p, n, d = 0.3, 30, 20
    product = (1 - (1 - p**2) ** n) ** d
    exact = two_hop_connection_probability(n, p, p, d)
    random, trials, found = np.random.default_rng(0), 4000, 0
    for _ in range(trials):
        linked = random.random(n) < p
        found += (random.random((d, n)) < p)[:, linked].any(1).all()
    spread = math.sqrt(exact * (1 - exact) / trials)
    assert abs(found / trials - exact) < 4.9 * spread < abs(found / trials - product)
    assert exact > product


def test_the_bound_of_the_proof_does_not_hold():
    """Confirmed. A network below the first bound of A.6 succeeds with probability 1 - delta."""
    p, d, delta = 0.2, 100, 0.5
    n = math.ceil(float(width_lower_bound_of_proof(p, delta, d))) - 1
    assert two_hop_connection_probability(n, p, p, d) > 1 - delta
    assert n > width_lower_bound(p, delta, d)  # the bound of the theorem itself is not affected


def test_theorem_2_7_means_a_success_probability_below_1_minus_delta():
    """Confirmed. A failure probability of 1 - delta or more would be false: 81 % of draws succeed."""
    p, d, delta = 0.9, 1, 0.01
    n = math.ceil(float(width_lower_bound(p, delta, d))) - 1
    assert n == 1
    exact = two_hop_connection_probability(n, p, p, d)
    assert exact == pytest.approx(0.81) and delta < exact < 1 - delta
