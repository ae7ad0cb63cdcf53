"""Strong tickets: only masks change, the certified error bounds hold, and the tolerances of A.2 are corrected."""

import numpy as np
import pytest
import torch
from torch import nn

from ersparse.errors import UserError
from ersparse.sparse.mask import masks_of
from ersparse.theory.error_tolerances import (
    LINEAR_PROBABILITY,
    TargetBounds,
    strong_copies,
    strong_copies_printed,
    subset_sums_printed,
    subset_sums_required,
    target_bounds,
    tolerances,
    tolerances_printed,
)
from ersparse.theory.experiments.strong import uniform_target
from ersparse.theory.networks import AffineLayer, affine_layers, max_output_difference, random_target, without_dead_ends
from ersparse.theory.strong import random_source, strong_ticket
from ersparse.theory.strong_layers import ToleranceNotMet, copy_inputs

EPSILON = 0.01


def bounds_of(target, low=-1.0, high=1.0):
    return target_bounds(affine_layers(target), low, high)


@pytest.mark.parametrize("widths", [[1, 2], [2, 3, 1], [2, 4, 4, 2]])
@pytest.mark.parametrize("p", [0.4, 1.0])
def test_tickets_are_within_epsilon_at_the_corrected_width(widths, p):
    """The bound allows a failure probability of .05; no ticket in results/theory/strong failed."""
    random = np.random.default_rng(len(widths))
    target = uniform_target(widths, random)
    by_layer, bounds = [p] * len(widths), bounds_of(target)
    copies = strong_copies(bounds, by_layer, EPSILON, 0.05)
    ticket = strong_ticket(target, copies, by_layer, 0, tolerances=tolerances(EPSILON, bounds))
    inputs = torch.from_numpy(random.uniform(-1, 1, (2000, widths[0])))
    measured = max_output_difference(target, ticket.network, inputs)
    assert measured <= EPSILON and measured <= ticket.certified
    assert all(error <= allowed for error, allowed in zip(ticket.errors, tolerances(EPSILON, bounds), strict=True))


def test_weights_and_biases_stay_as_drawn():
    target = uniform_target([2, 3, 1], np.random.default_rng(0))
    copies, p = [60, 30, 1], [0.8, 0.7, 0.7]
    ticket = strong_ticket(target, copies, p, 3)
    drawn = dict(random_source([2, 3, 1], copies, 3).named_parameters())
    assert masks_of(ticket.network).keys() == ticket.masks.keys()
    for name, value in ticket.network.named_parameters():
        if name in ticket.masks:
            mask = ticket.masks[name]
            assert not (mask & ~ticket.source_masks[name]).any()
            assert torch.equal(value[mask], drawn[name][mask]) and (value[~mask] == 0).all()
        else:
            assert torch.equal(value, drawn[name])


def test_the_certified_bound_holds_for_inaccurate_tickets():
    """If the source is too narrow for an accurate ticket, the certified bound still exceeds the measured error."""
    random = np.random.default_rng(0)
    for seed in range(20):
        target = uniform_target([2, 3, 3, 1], random)
        ticket = strong_ticket(target, [12, 8, 8, 1], [0.7] * 4, seed)
        inputs = torch.from_numpy(random.uniform(-1, 1, (500, 2)))
        assert max_output_difference(target, ticket.network, inputs) <= ticket.certified


def test_layer_0_is_univariate_and_linear_on_the_box():
    random = np.random.default_rng(0)
    weight, bias = random.uniform(-1, 1, (400, 3)), random.uniform(-1, 1, 400)
    mask = random.random((400, 3)) < 0.5
    kept, neurons = copy_inputs(weight, bias, mask, -2.0, 0.5)
    assert (kept.sum(1) <= 1).all() and not (kept & ~mask).any()
    x = random.uniform(-2.0, 0.5, (50, 3))
    states = np.maximum(x @ (weight * kept).T + bias, 0)
    for neuron in np.flatnonzero(neurons.block >= 0):
        block = neurons.block[neuron]
        expected = neurons.offset[neuron] + (neurons.scale[neuron] * x[:, block] if block < 3 else 0)
        np.testing.assert_allclose(states[:, neuron], expected, atol=1e-12)
    counts = np.bincount(neurons.block[neurons.block >= 0], minlength=4)
    assert counts[:3].max() - counts[:3].min() <= 3


def test_a_quarter_of_the_neurons_is_linear():
    random = np.random.default_rng(0)
    w, b = random.uniform(-1, 1, (2, 200_000))
    assert (b >= np.abs(w)).mean() == pytest.approx(LINEAR_PROBABILITY, abs=0.005)  # five standard errors


def test_edges_without_outgoing_edges_are_pruned():
    masks = {"a": torch.tensor([[1, 1], [0, 1]]).bool(), "b": torch.tensor([[0, 1]]).bool()}
    left = without_dead_ends(masks)
    assert left["a"].int().tolist() == [[0, 0], [0, 1]] and left["b"].int().tolist() == [[0, 1]]


def test_invalid_arguments_are_rejected():
    target = uniform_target([2, 3, 1], np.random.default_rng(0))
    with pytest.raises(ToleranceNotMet) as error:
        strong_ticket(target, [3, 3, 1], [0.5] * 3, 0, tolerances=[1e-3, 1e-3])
    assert error.value.layer == 1 and str(error.value).startswith(
        "layer 1: no copy of neuron 0 is within the tolerance 0.001"
    )
    for arguments, line in (
        (([3, 1], [0.5] * 3), "copies=[3, 1]: must be 3 numbers"),
        (([3, 3, 1], [0.5] * 2), "p=[0.5, 0.5]: must have 3 densities"),
        (([3, 3, 1], [0.5, 2, 0.5]), "p=2: must lie in (0, 1]"),
    ):
        with pytest.raises(UserError) as refused:
            strong_ticket(target, *arguments, 0)
        assert str(refused.value).startswith(line)
    convolution = random_target([1, 1], 1, np.random.default_rng(0), [3])
    with pytest.raises(UserError, match="target: Conv2d, must be Linear"):
        strong_ticket(convolution, [3, 1], [0.5] * 2, 0)


def test_target_bounds_by_hand_and_by_simulation():
    layers = [
        AffineLayer(torch.tensor([[1.0, -2.0], [0.5, 0.5]]), torch.tensor([0.0, -1.5])),
        AffineLayer(torch.tensor([[1.0, -1.0]]), torch.tensor([0.0])),
    ]
    bounds = target_bounds(layers, -1, 1)
    # h_1 in [-3, 3], h_2 in [-2.5, -.5], so x_2 = 0
    assert bounds.norms == [3, 2] and bounds.activation_sums == [2, 3]
    assert [x.tolist() for x in bounds.activation_bounds] == [[1, 1], [3, 0]]
    random = np.random.default_rng(0)
    target = random_target([3, 8, 8, 1], 1, random)
    x, highest = torch.from_numpy(random.uniform(-1, 1, (2000, 3))), bounds_of(target).activation_bounds
    with torch.no_grad():
        first, second = target[:2](x).amax(0).numpy(), target[:4](x).amax(0).numpy()
    assert (first <= highest[1]).all() and (second <= highest[2]).all()


def perturbed(target, errors):
    """Return the target with errors[l] added to every parameter of layer l."""
    off = [nn.Linear(m.in_features, m.out_features, dtype=torch.float64) for m in target[::2]]
    for layer, module, error in zip(off, target[::2], errors, strict=True):
        layer.weight.data, layer.bias.data = module.weight.data + error, module.bias.data + error
    moved = nn.Sequential(*[part for layer in off for part in (layer, nn.ReLU())][:-1])
    return moved


def test_the_printed_tolerances_of_equation_3_do_not_suffice():
    """For widths 1-8-1 with all weights 1, the product in (3) omits the norm of layer L, which is 8."""
    target = nn.Sequential(*[nn.Linear(1, 8), nn.ReLU(), nn.Linear(8, 1)]).double()
    for parameter in target.parameters():
        parameter.data.fill_(1.0)
    bounds, x = bounds_of(target, 0, 1), torch.ones(1, 1).double()
    printed, ours = tolerances_printed(EPSILON, bounds), tolerances(EPSILON, bounds)
    # layer 1 alone: 8 (1 + 1) eps_1 = 8 eps / (2 (1 + eps/2)), four times the tolerance
    assert max_output_difference(target, perturbed(target, [printed[0], 0]), x) == pytest.approx(4 * EPSILON, rel=0.01)
    assert max_output_difference(target, perturbed(target, ours), x) <= EPSILON


def test_the_corrected_tolerances_suffice():
    """Random and aligned perturbations of random targets change no output by more than epsilon."""
    random = np.random.default_rng(0)
    for _ in range(100):
        widths = [int(w) for w in random.integers(1, 9, random.integers(2, 6))]
        target, epsilon = random_target(widths, 1, random), float(random.choice([0.5, 0.05]))
        allowed = tolerances(epsilon, bounds_of(target))
        x = torch.from_numpy(random.choice([-1.0, 1.0], (64, widths[0])))
        assert max_output_difference(target, perturbed(target, allowed), x) <= epsilon * (1 + 1e-12)
        moved = perturbed(target, [0.0] * len(allowed))
        for module, error in zip(moved[::2], allowed, strict=True):
            module.weight.data += error * torch.from_numpy(random.choice([-1.0, 1.0], tuple(module.weight.shape)))
        assert max_output_difference(target, moved, x) <= epsilon


def test_differing_copies_amplify_errors_beyond_the_norm_of_the_target():
    """A target weight 0.5 = 0.9 - 0.4 over two copies with errors +e and -e has error 1.3 e, not 0.5 e."""
    e, x = 0.01, 1.0
    copies = np.array([x + e, x - e])
    assert np.array([0.9, -0.4]) @ copies - 0.5 * x == pytest.approx(1.3 * e)


def test_strong_copies_are_a_fixed_point():
    """The copies of each layer satisfy Lemma 2.1 for the tolerance and the share of delta that follow from them."""
    bounds = TargetBounds([2, 4, 4, 1], [2.0, 3.0, 2.0], [2.0, 6.0, 9.0], [])
    p, a, b, delta = [0.9, 0.5, 0.4, 0.3], 5.0, 0.6, 0.05
    q = strong_copies(bounds, p, EPSILON, delta, a, b)
    errors = tolerances(EPSILON, bounds, [2 * q[0], 4 * q[1], 4 * q[2]])
    sums = 4 * q[1] * 3 + 4 * q[2] * 5 + 1 * q[3] * 5  # a subset sum for each weight and for the bias, of each copy
    density = [LINEAR_PROBABILITY * 0.9 * 0.5, 0.4, 0.3]
    failed = [a / e * (1 - d * (1 - np.exp(-b))) ** n for d, e, n in zip(density, errors, q[:-1], strict=True)]
    assert q[-1] == 1 and max(failed) <= delta / sums * (1 + 1e-9)
    assert min(failed) > delta / sums / 3  # and no layer is much wider than required


def test_the_printed_number_of_subset_sums_is_too_small_at_gamma_0():
    """A.2 requires rho >= A log(1/min(eps, delta/rho)) but prints A log(1/min(eps, delta)) for it."""
    bounds = TargetBounds([4, 8, 8, 1], [2.0, 3.0, 2.0], [1.0, 1.0, 1.0], [])
    p, delta = [0.5] * 4, 1e-3
    rho = subset_sums_printed(bounds, p, 0.9, delta)
    # by hand: A = (32 + 64 + 8)/log 2 = 150.04
    smallest = min(*tolerances_printed(0.9, bounds), delta)
    assert rho == pytest.approx(104 / np.log(2) * -np.log(smallest), rel=1e-12)
    assert subset_sums_required(rho, bounds, p, 0.9, delta) > 1.5 * rho
    assert subset_sums_required(rho, bounds, p, 0.9, delta) == pytest.approx(104 / np.log(2) * np.log(rho / delta))
    slightly = subset_sums_printed(bounds, p, 0.9, delta, gamma=0.05)
    assert subset_sums_required(slightly, bounds, p, 0.9, delta) > slightly  # "any gamma" is not enough either
    enough = subset_sums_printed(bounds, p, 0.9, delta, gamma=0.5)
    assert subset_sums_required(enough, bounds, p, 0.9, delta) <= enough


def test_the_printed_strong_widths_by_hand():
    bounds = TargetBounds([2, 3, 1], [1.0, 1.0], [1.0, 1.0], [])
    p, epsilon, delta = [0.5, 0.5, 0.75], 0.5, 0.1
    first = 0.5 / 2 / (2 * 1.25)  # (3) for l = 1, an empty product
    rho = 9 / np.log(2) * np.log(1 / min(first, delta))
    expected = [np.log(1 / min(first, delta / rho)) / np.log(q) for q in (2, 4)]
    assert strong_copies_printed(bounds, p, epsilon, delta) == pytest.approx([*expected, 1])
    assert strong_copies_printed(bounds, [1.0] * 3, epsilon, delta) == [0, 0, 1]
