"""Constant fan-in: equal rows, the budget, flow repair within rows, uniform draws, and the variance of their output."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import ersparse
from ersparse.errors import UserError
from ersparse.models import resnet20, vgg16
from ersparse.sparse.degrees import zero_degrees
from ersparse.sparse.density import erk
from ersparse.sparse.fan_in import draw_rows, fan_ins, move_in_rows
from ersparse.sparse.layers import Layer, prunable_layers
from ersparse.sparse.mask import draw_bernoulli

ONE_IN_A_MILLION = 4.9  # standard deviations, two-sided

SIDES = st.integers(1, 6)
LAYERS = st.builds(
    lambda groups, n_out, n_in, kernel, transposed: Layer(
        "l", (groups * n_in, n_out, kernel) if transposed else (groups * n_out, n_in, kernel), groups, transposed
    ),
    SIDES, SIDES, SIDES, st.integers(1, 3), st.booleans(),
)  # fmt: skip


def rows(mask, layer):
    return layer.to_rows(mask).flatten(1).sum(1)


@given(LAYERS, st.data())
def test_every_output_channel_has_as_many_weights_and_after_repair_every_input_an_edge(layer, data):
    count = data.draw(st.integers(1, layer.fan_in))
    random = np.random.default_rng(data.draw(st.integers(0, 99)))
    mask = draw_rows(layer, count, random)
    assert mask.shape == layer.shape and rows(mask, layer).eq(count).all()
    repaired, counts = move_in_rows(mask, layer, 0.5, random)
    least = math.ceil((layer.n_in // layer.groups) / (layer.n_out // layer.groups))
    assert rows(repaired, layer).eq(max(count, least)).all()
    assert zero_degrees(repaired, layer) == (0, 0)
    assert counts.drawn == mask.sum() and counts.drawn + counts.added_out == repaired.sum()
    if counts.added_out == 0:
        assert int((mask & ~repaired).sum()) <= counts.moved_out == counts.zero_out


def test_a_layer_of_density_zero_is_left_alone():
    layer = Layer("l", (4, 3))
    mask = draw_rows(layer, 0, np.random.default_rng(0))
    assert not mask.any() and move_in_rows(mask, layer, 0.0, np.random.default_rng(0))[0].equal(mask)


@pytest.mark.parametrize("model", [resnet20, vgg16])
@pytest.mark.parametrize("density", [0.5, 0.1, 0.02])
def test_rounding_errors_of_layers_compensate_each_other(model, density):
    with torch.device("meta"):
        layers = prunable_layers(model(10, channels=3))
    exact = erk(layers, density)
    found = fan_ins(layers, exact)
    for layer, p, count in zip(layers, exact, found, strict=True):
        assert math.floor(p * layer.fan_in + 1e-9) <= max(count, 1) <= max(1, math.ceil(p * layer.fan_in - 1e-9))
    kept = sum(count * layer.n_out for count, layer in zip(found, layers, strict=True))
    forced = sum(max(0, 1 - p * layer.fan_in) * layer.n_out for p, layer in zip(exact, layers, strict=True))
    widest = max(layer.n_out for layer in layers)
    assert abs(kept - density * sum(layer.size for layer in layers)) <= widest / 2 + forced


def test_fan_ins_match_values_computed_by_hand():
    """The widest first: 2.5 rounds to 2 and lacks 4 weights, which raise 1.25 to 2; a density above 0 keeps one."""
    layers = [Layer("a", (4, 5)), Layer("b", (8, 10)), Layer("c", (4, 5)), Layer("d", (4, 5))]
    assert fan_ins(layers, [0.25, 0.25, 0.0, 0.01]) == [2, 2, 0, 1]


def test_each_row_is_uniform_among_all_choices_of_its_weights():
    """Chi-squared over the ten pairs of five in 20000 rows, nine degrees of freedom; fails once in a million."""
    mask = draw_rows(Layer("l", (20_000, 5)), 2, np.random.default_rng(1)).numpy()
    seen = np.bincount(mask @ (1 << np.arange(5)), minlength=32)
    seen = seen[[(1 << i) + (1 << j) for i in range(5) for j in range(i)]]
    assert seen.sum() == 20_000 and ((seen - 2000) ** 2 / 2000).sum() < 44.8


@pytest.mark.parametrize("how", ["fan_in", "bernoulli"])
def test_the_squared_output_has_the_variance_of_sampling_without_replacement(how):
    """A ReLU unit with normal weights has E y^4 = 3/2 s^4 E S^2, with S the sum of x^2 over its inputs.

    Var S is k (n-k) / (n (n-1)) sum (x^2 - mean)^2 for k of n inputs, and p (1-p) sum x^4 for independent ones. With
    100000 rows the mean is held to 4.9 of its standard errors, so that the test fails once in a million.
    """
    n, k, units = 20, 4, 100_000
    random = np.random.default_rng(5)
    squares, layer = random.standard_normal(n) ** 2, Layer("l", (units, n))
    mask = draw_rows(layer, k, random) if how == "fan_in" else draw_bernoulli(layer, k / n, random)
    weights = random.standard_normal((units, n)) * math.sqrt(2 / k)
    outputs = np.maximum(weights * mask.numpy() @ np.sqrt(squares), 0)
    mean = k / n * squares.sum()
    without = k * (n - k) / (n * (n - 1)) * ((squares - squares.mean()) ** 2).sum()
    independent = k / n * (1 - k / n) * (squares**2).sum()
    assert without < independent
    expected = 1.5 * (2 / k) ** 2 * ((without if how == "fan_in" else independent) + mean**2)
    fourth = outputs**4
    assert abs(fourth.mean() - expected) < ONE_IN_A_MILLION * fourth.std() / math.sqrt(units)
    inputs = (mask.numpy() * squares).sum(1)
    spread = (inputs - mean) ** 2
    variance = without if how == "fan_in" else independent
    assert abs(spread.mean() - variance) < ONE_IN_A_MILLION * spread.std() / math.sqrt(units)


def test_the_library_draws_it_and_refuses_repairs_that_change_rows():
    network = resnet20(10, channels=1, width=0.25)
    masks, record = ersparse.sparsify(network, "erk", 0.8, sampling="fan_in", seed=1)
    for layer in prunable_layers(network):
        assert rows(masks[layer.name], layer).unique().numel() == 1
        assert zero_degrees(masks[layer.name], layer) == (0, 0)
    assert record["sparsity"]["realised"] == pytest.approx(0.8, abs=0.01)
    for flow in ("add", "resample", "released"):
        with pytest.raises(UserError, match="^sampling=fan_in: needs flow=move or none"):
            ersparse.sparsify(resnet20(10), "erk", 0.8, sampling="fan_in", flow=flow)
