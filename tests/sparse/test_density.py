"""Layer densities against published values, a bisection, and cases worked by hand."""

import functools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ersparse import models
from ersparse.sparse import density as D
from ersparse.sparse.layers import Layer, prunable_layers

GOLDEN = json.loads((Path(__file__).parent.parent / "golden" / "densities.json").read_text())
LEVELS = [0, 0.5, 0.8, 0.9, 0.95, 0.99, 0.995, 0.999]
RULES = {"uniform": D.uniform, "er": D.er, "erk": D.erk, "pyramidal": D.pyramidal, "balanced": D.balanced}


BY_SIZE = [name for name in models.__all__ if not name.endswith("_network")]  # the others need a name of a library


@functools.cache
def layers_of(name: str, classes: int) -> list[Layer]:
    with torch.device("meta"):
        return prunable_layers(getattr(models, name)(classes))


@pytest.mark.parametrize("network", GOLDEN)
def test_densities_match_golden_values(network):
    name, classes = network.split("_")
    layers = layers_of(name, int(classes))
    assert [list(layer.shape) for layer in layers] == GOLDEN[network]["shapes"]
    for level, rows in GOLDEN[network]["density"].items():
        for rule, expected in rows.items():
            options = {"redistribute": "none"} if rule == "balanced_cap" else {}
            found = RULES[rule.split("_")[0]](layers, 1 - float(level), **options)
            np.testing.assert_allclose(found, expected, atol=1e-6, rtol=0, err_msg=f"{rule} at {level}")


@pytest.mark.parametrize("name", BY_SIZE)
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("level", LEVELS)
def test_expected_density_equals_the_nominal_density(name, rule, level):
    layers = layers_of(name, 100)
    found = RULES[rule](layers, 1 - level)
    assert abs(D.expected_density(layers, found) - (1 - level)) < 1e-9
    assert all(0 < p <= 1 for p in found)


def test_rules_match_a_hand_worked_example():
    """Layers 3->4 (12 weights) and 4->2 (8 weights), p = 0.75: 15 weights are to be kept."""
    layers = [Layer("a", (4, 3)), Layer("b", (2, 4))]
    assert D.uniform(layers, 0.75) == [0.75, 0.75]
    # raw 7/12 and 6/8: t (7 + 6) = 15 would put b at 0.865; both stay below 1.
    np.testing.assert_allclose(D.erk(layers, 0.75), [15 / 13 * 7 / 12, 15 / 13 * 6 / 8])
    # 7.5 weights each: 0.625 and 0.9375.
    np.testing.assert_allclose(D.balanced(layers, 0.75), [0.625, 0.9375])
    # at p = 0.9, 18 weights: b takes all its 8, a the other 10; without redistribution a has 9.
    np.testing.assert_allclose(D.balanced(layers, 0.9), [10 / 12, 1])
    np.testing.assert_allclose(D.balanced(layers, 0.9, redistribute="none"), [9 / 12, 1])
    # 12 r + 8 r^2 = 15: r = (-12 + sqrt(144 + 480)) / 16
    r = (-12 + 624**0.5) / 16
    np.testing.assert_allclose(D.pyramidal(layers, 0.75), [r, r * r])


def test_er_ignores_the_kernel_and_erk_includes_it():
    layers = [Layer("conv", (8, 4, 3, 3)), Layer("linear", (10, 8))]
    conv, linear = D.er(layers, 0.1)
    assert conv / linear == pytest.approx((12 / 32) / (18 / 80))
    conv, linear = D.erk(layers, 0.1)
    assert conv / linear == pytest.approx((18 / 288) / (18 / 80))


@given(
    sizes=st.lists(st.integers(1, 10**6), min_size=1, max_size=30),
    raw=st.lists(st.floats(1e-6, 1e3), min_size=30, max_size=30),
    least=st.lists(st.floats(0, 1), min_size=30, max_size=30),
    share=st.floats(0, 1),
)
def test_fill_matches_bisection(sizes, raw, least, share):
    layers = [Layer(str(i), (1, size)) for i, size in enumerate(sizes)]
    n, raw, least = np.array(sizes, float), np.array(raw[: len(sizes)]), np.array(least[: len(sizes)])
    lowest = least @ n / n.sum()
    p = lowest + share * (1 - lowest)
    if p <= 0:
        return
    low, high = 0.0, 1 / raw.min()
    for _ in range(200):
        t = (low + high) / 2
        low, high = (t, high) if np.clip(t * raw, least, 1) @ n < p * n.sum() else (low, t)
    found = np.array(D.fill(raw, layers, p, least))
    assert abs(found @ n / n.sum() - p) < 1e-9
    np.testing.assert_allclose(found, np.clip(high * raw, least, 1), atol=1e-7)


def test_first_dense_and_floor_meet_the_budget():
    layers = layers_of("vgg19", 100)
    first = D.uniform(layers, 0.01, first_dense=True)
    assert first[0] == 1 and len(set(first[1:])) == 1
    floored = D.pyramidal(layers, 0.001, floor=1)
    assert all(p * layer.fan_in >= 1 - 1e-12 for p, layer in zip(floored, layers, strict=True))
    for found, p in ((first, 0.01), (floored, 0.001)):
        assert D.expected_density(layers, found) == pytest.approx(p, abs=1e-12)


def test_a_floor_beyond_the_budget_is_an_error():
    with pytest.raises(D.DensityError, match="weights cannot be spread"):
        D.uniform([Layer("a", (10, 10))], 0.05, floor=1)


def test_budgets_range_from_one_weight_per_layer_to_all():
    layers = layers_of("resnet20", 10)
    total = sum(layer.size for layer in layers)
    for rule in RULES.values():
        for budget in (len(layers), 1000, total - 1, total):
            found = rule(layers, budget / total)
            assert D.expected_density(layers, found) * total == pytest.approx(budget, rel=1e-9)


def test_from_file_checks_layers_and_ranges():
    layers = [Layer("a", (4, 3)), Layer("b", (2, 4))]
    assert D.from_file(layers, {"a": 0.5, "b": 0.0}) == [0.5, 0.0]
    for wrong in ({"a": 0.5}, {"a": 0.5, "b": 1.5}, {"a": 0.5, "b": 0.1, "c": 0.1}):
        with pytest.raises(D.DensityError, match="layer "):
            D.from_file(layers, wrong)


def test_dense_is_one_everywhere():
    assert D.dense([Layer("a", (4, 3))]) == [1.0]
