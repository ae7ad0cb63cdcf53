"""Flow repair: properties, a slow reference, and the closed forms of what Tables 5 and 6 count."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from ersparse import models
from ersparse.sparse import density as D
from ersparse.sparse import flow_repair
from ersparse.sparse.degrees import degrees, zero_degrees
from ersparse.sparse.layers import Layer, prunable_layers
from ersparse.sparse.mask import draw_bernoulli
from ersparse.sparse.rng import generator
from ersparse.sparse.source import ERSource

ODDS = 1e-6
SHAPES = st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9), st.sampled_from([(), (1, 1), (3, 3)]))


@st.composite
def drawn_masks(draw):
    """A layer, possibly grouped, with a mask of any density from none to all."""
    groups, rows, columns, kernel = draw(SHAPES)
    layer = Layer("l", (groups * rows, columns, *kernel), groups)
    p = draw(st.sampled_from([0.001, 0.02, 0.1, 0.3, 0.7, 1.0]))
    return layer, draw_bernoulli(layer, p, generator(draw(st.integers(0, 10**6)))), p


def slow_degrees(mask, layer):
    """Degrees by counting kernels one at a time."""
    rows, columns = [0] * layer.n_out, [0] * layer.n_in
    for o, i in itertools.product(range(layer.n_out), range(layer.shape[1])):
        if mask[o, i].any():
            rows[o] += 1
            columns[o // (layer.n_out // layer.groups) * layer.shape[1] + i] += 1
    return rows, columns


def fewest(layer: Layer) -> int:
    """The least number of weights with which every channel has an edge."""
    return layer.groups * max(layer.n_out // layer.groups, layer.shape[1])


@given(drawn_masks())
def test_degrees_match_a_loop_over_kernels(case):
    layer, mask, _ = case
    rows, columns = degrees(mask, layer)
    assert (rows.tolist(), columns.tolist()) == slow_degrees(mask, layer)


@given(drawn_masks(), st.integers(0, 10**6))
def test_add_gives_every_channel_an_edge(case, seed):
    layer, mask, p = case
    repaired, counts = flow_repair.add(mask, layer, p, generator(seed))
    assert zero_degrees(repaired, layer) == (0, 0)
    assert (repaired & mask).equal(mask)
    rows, columns = slow_degrees(mask, layer)
    assert (counts.drawn, counts.zero_in, counts.zero_out) == (int(mask.sum()), rows.count(0), columns.count(0))
    assert counts.added_in == counts.zero_in and counts.added_out <= counts.zero_out
    assert int(repaired.sum()) == counts.drawn + counts.added_in + counts.added_out
    assert (counts.moved_in, counts.moved_out) == (0, 0)


@given(drawn_masks(), st.integers(0, 10**6))
def test_released_repairs_as_the_published_code(case, seed):
    """Rows are repaired, and columns of linear layers; columns of a convolution only if exactly one is empty."""
    layer, mask, p = case
    repaired, counts = flow_repair.released(mask, layer, p, generator(seed))
    rows, columns = slow_degrees(repaired, layer)
    drawn = slow_degrees(mask, layer)[1]
    assert 0 not in rows and (repaired & mask).equal(mask)
    assert int(repaired.sum()) == counts.drawn + counts.added_in + counts.added_out
    if mask.dim() == 2 or drawn.count(0) == 1:
        assert 0 not in columns
    else:  # rows that were filled may have met a column
        assert counts.added_out == 0 and columns.count(0) >= drawn.count(0) - counts.added_in


@given(drawn_masks(), st.integers(0, 10**6))
@settings(max_examples=300)
def test_move_preserves_the_count_down_to_the_minimum(case, seed):
    layer, mask, p = case
    repaired, counts = flow_repair.move(mask, layer, p, generator(seed))
    kept = int(repaired.sum())
    assert zero_degrees(repaired, layer) == (0, 0)
    assert kept == max(counts.drawn, fewest(layer))
    assert kept == counts.drawn + counts.added_in + counts.added_out
    put_in = flow_repair.add(mask, layer, p, generator(seed))[1]
    assert counts.added_in + counts.moved_in == put_in.added_in
    assert counts.added_out + counts.moved_out == put_in.added_out
    if counts.zero_in == counts.zero_out == 0:
        assert repaired.equal(mask)


@given(drawn_masks(), st.integers(0, 10**6))
def test_resample_gives_every_channel_an_edge(case, seed):
    layer, mask, p = case
    repaired, counts = flow_repair.resample(mask, layer, p, generator(seed))
    assert zero_degrees(repaired, layer) == (0, 0)
    assert (repaired & mask).equal(mask)
    assert int(repaired.sum()) == counts.drawn + counts.added_in + counts.added_out


def test_a_layer_of_density_zero_stays_empty():
    layer, empty = Layer("l", (4, 4)), torch.zeros(4, 4, dtype=torch.bool)
    for repair in (flow_repair.add, flow_repair.move, flow_repair.resample):
        repaired, counts = repair(empty, layer, 0.0, generator(0))
        assert not repaired.any() and (counts.zero_in, counts.zero_out) == (4, 4)


def test_edges_are_merged_where_no_weight_can_be_removed():
    """Row 0 reads columns 0-3, rows 1-4 read column 4: of 8 edges none is removable, although 5 suffice."""
    mask = torch.zeros(6, 6, dtype=torch.bool)
    mask[0, :4] = mask[1:5, 4] = True
    repaired, counts = flow_repair.move(mask[:, :5][:5], Layer("l", (5, 5)), 0.3, generator(0))
    assert repaired.equal(mask[:5, :5]), "nothing is missing, so nothing moves"
    repaired, counts = flow_repair.move(mask, Layer("l", (6, 6)), 0.3, generator(0))
    assert int(repaired.sum()) == 8 and (counts.added_in, counts.added_out) == (0, 0)


def test_conditional_draw_matches_enumerated_probabilities():
    """Three weights at density 0.2: chi-squared test of the seven nonempty outcomes over 20 000 draws."""
    random, p, draws = np.random.default_rng(), 0.2, 20_000
    seen = dict.fromkeys(itertools.product([False, True], repeat=3), 0)
    for _ in range(draws):
        seen[tuple(flow_repair._draw_nonempty((3,), p, random).tolist())] += 1
    assert seen.pop((False,) * 3) == 0
    weight = [p ** sum(outcome) * (1 - p) ** (3 - sum(outcome)) for outcome in seen]
    expected = [draws * w / sum(weight) for w in weight]
    assert stats.chisquare(list(seen.values()), expected).pvalue > ODDS


@pytest.mark.parametrize("shape, groups, p", [((30, 20, 3, 3), 1, 0.01), ((40, 10), 1, 0.15), ((24, 6, 1, 1), 2, 0.3)])
def test_resample_meets_the_nominal_density(shape, groups, p):
    """The mean count of 400 conditioned masks is compared in standard errors."""
    layer, start = Layer("l", shape, groups), np.random.randint(10**9)
    counts = []
    for seed in range(start, start + 400):
        source = ERSource([layer], [p], p, seed, flow="resample")
        counts.append(int(source.repair(source.draw())[0]["l"].sum()))
    error = np.std(counts, ddof=1) / len(counts) ** 0.5
    assert abs(np.mean(counts) - p * layer.size) < stats.t.isf(ODDS / 2, len(counts) - 1) * error


def test_infeasible_resample_density_names_the_layer():
    with pytest.raises(flow_repair.FlowError, match="layer first.weight: resample needs"):
        flow_repair.conditioned_density(Layer("first.weight", (64, 3, 3, 3)), 0.01)


# ---- Tables 5 and 6: closed forms of what a mask drawn by Bernoulli lacks ----------------------------------------


def empty_row(layer: Layer, p: float) -> float:
    return (1 - p) ** layer.fan_in


def empty_column(layer: Layer, p: float) -> float:
    return (1 - p) ** (layer.size // layer.n_in)


def empty_column_after_rows(layer: Layer, p: float) -> float:
    """A row misses the column if all its k weights there are removed, unless its repair falls into the column."""
    k = layer.fan_in // layer.n_in
    return ((1 - p) ** k - empty_row(layer, p) / layer.n_in) ** layer.n_out


def pair_odds(layers, densities) -> list[float]:
    """For each (layer, direction): the probability that it has a channel without an edge."""
    rows = [1 - (1 - empty_row(layer, p)) ** layer.n_out for layer, p in zip(layers, densities, strict=True)]
    columns = [1 - (1 - empty_column(layer, p)) ** layer.n_in for layer, p in zip(layers, densities, strict=True)]
    return rows + columns


VGG19 = prunable_layers(models.vgg19(100))
RULES = {
    "uniform": D.uniform,
    "erk": D.erk,
    "balanced": lambda layers, p: D.balanced(layers, p, redistribute="none"),
    "pyramidal": D.pyramidal,
}
PAIRS = [  # expected number of pairs; the paper prints 1.33, 3, 34, 30.33, 23.33, 1, 8, 22 as means of three seeds
    ("uniform", 0.9, 0.99), ("uniform", 0.99, 3.14), ("uniform", 0.999, 33.75), ("erk", 0.999, 29.80),
    ("balanced", 0.999, 23.42), ("pyramidal", 0.9, 1.00), ("pyramidal", 0.99, 8.24), ("pyramidal", 0.999, 22.20),
]  # fmt: skip
EDGES = [("uniform", 515, 582), ("erk", 189, 180), ("balanced", 418, 382), ("pyramidal", 3836, 1824)]


def draws(rule: str, level: float, count: int):
    densities = RULES[rule](VGG19, 1 - level)
    start = np.random.randint(10**9)
    for seed in range(start, start + count):
        source = ERSource(VGG19, densities, 1 - level, seed, flow="add")
        yield source.repair(source.draw())


@pytest.mark.parametrize("rule, level, expected", PAIRS)
def test_zero_degree_pairs_follow_their_closed_form(rule, level, expected):
    """The closed form gives the known figure, and the total over four seeds lies in its exact distribution."""
    odds = pair_odds(VGG19, RULES[rule](VGG19, 1 - level))
    assert sum(odds) == pytest.approx(expected, abs=0.006)
    seeds = 4
    distribution = np.ones(1)
    for q in odds * seeds:
        distribution = np.convolve(distribution, [1 - q, q])
    total = sum((c.zero_in > 0) + (c.zero_out > 0) for _, counts in draws(rule, level, seeds) for c in counts.values())
    assert 2 * min(distribution[: total + 1].sum(), distribution[total:].sum()) > ODDS / len(PAIRS)


@pytest.mark.parametrize("rule, rows, columns", EDGES)
def test_edges_added_follow_their_closed_form(rule, rows, columns):
    """vgg19 at 0.999: known figures, closed forms, and z-scores over four seeds."""
    densities = RULES[rule](VGG19, 0.001)
    row_odds = [(layer.n_out, empty_row(layer, p)) for layer, p in zip(VGG19, densities, strict=True)]
    column_odds = [(layer.n_in, empty_column_after_rows(layer, p)) for layer, p in zip(VGG19, densities, strict=True)]
    assert sum(n * q for n, q in row_odds) == pytest.approx(rows, abs=0.6)
    assert sum(n * q for n, q in column_odds) == pytest.approx(columns, rel=0.01)
    seeds, bound = 4, stats.norm.isf(ODDS / 2 / 8) + 0.5
    found = [list(counts.values()) for _, counts in draws(rule, 0.999, seeds)]
    for odds, total in (
        (row_odds, sum(c.added_in for counts in found for c in counts)),
        (column_odds, sum(c.added_out for counts in found for c in counts)),
    ):
        mean, variance = (seeds * sum(n * q * f for (n, q), f in zip(odds, factor, strict=True)) for factor in
                          ([1] * len(odds), [1 - q for _, q in odds]))  # fmt: skip
        assert abs(total - mean) < bound * math.sqrt(variance)


def test_move_preserves_the_count_in_every_layer_of_a_network():
    """Layers with enough weights preserve their drawn count; the others record the excess as added."""
    layers = prunable_layers(models.resnet110(100))
    source = ERSource(layers, D.erk(layers, 0.001), 0.001, seed=5, flow="move")
    masks, counts = source.repair(source.draw())
    short = 0
    for layer in layers:
        c, kept = counts[layer.name], int(masks[layer.name].sum())
        assert kept == max(c.drawn, max(layer.n_out, layer.n_in))
        assert kept - c.drawn == c.added_in + c.added_out
        assert zero_degrees(masks[layer.name], layer) == (0, 0)
        short += c.drawn < max(layer.n_out, layer.n_in)
    assert short > 0
