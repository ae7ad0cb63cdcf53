"""Rules of dropping and growing, CH3-L3, redistribution and constant fan-in against slow references and by hand."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from ersparse.errors import UserError
from ersparse.sparse import rewiring_rules as R
from ersparse.sparse.layers import Layer
from ersparse.sparse.link_prediction import ch3_l3, channel_scores
from ersparse.sparse.redistribution import allocate
from ersparse.sparse.row_rewiring import equal_targets, rewired_rows, salient_weights

WEIGHT = torch.tensor([[0.5, 0.2, -0.2, 0.0], [1.0, 0.0, 0.0, 0.0]])
MASK = torch.tensor([[True, True, True, False], [True, False, False, False]])
GRADIENT = torch.tensor([[0.0, 0.1, -0.4, 3.0], [0.2, -2.0, 0.0, 1.0]])


def test_mest_scores_match_values_computed_by_hand():
    """A small weight with a large gradient stays: 0.2 + 0.5 * 0.4 against 0.2 + 0.5 * 0.1."""
    found = R.mest(WEIGHT, GRADIENT, 0.5)
    assert found[MASK].tolist() == pytest.approx([0.5, 0.25, 0.4, 1.1])


def test_shares_match_values_computed_by_hand():
    assert float(R.mean_momentum(MASK, GRADIENT)) == pytest.approx((0.0 + 0.1 + 0.4 + 0.2) / 4)
    assert float(R.mean_gradient(~MASK & MASK, GRADIENT)) == 0
    assert float(R.remaining(3)) == 3


def test_momentum_is_the_buffer_or_adams_mean_over_its_deviation():
    one = torch.ones(2)
    assert R.momentum_of({"momentum_buffer": 3 * one}, "a").equal(3 * one)
    assert R.momentum_of({"exp_avg": one, "exp_avg_sq": 4 * one, "step": one[0]}, "a").allclose(one / 2)
    assert R.momentum_of({"exp_avg": one}, "a").equal(one)  # Lion
    for state in ({}, {"momentum_buffer": None}):
        with pytest.raises(UserError, match="^optimizer: has no momentum of a"):
            R.momentum_of(state, "a")


def slow_ch3(edges):
    """Enumerate the paths of three edges of each pair without an edge, with sets of neighbours."""
    outputs, inputs = edges.shape
    feeds = {("o", o): {("i", i) for i in range(inputs) if edges[o, i]} for o in range(outputs)}
    feeds |= {("i", i): {("o", o) for o in range(outputs) if edges[o, i]} for i in range(inputs)}
    found = np.zeros(edges.shape)
    for v in range(outputs):
        for u in range(inputs):
            ends = {("o", v), ("i", u)}
            paths = [
                (z1, z2) for z1 in feeds["i", u] for z2 in feeds["o", v] if z2 in feeds[z1] and not {z1, z2} & ends
            ]
            community = {node for path in paths for node in path}
            external = {node: len(feeds[node] - community - ends) for node in community}
            found[v, u] = sum(((1 + external[a]) * (1 + external[b])) ** -0.5 for a, b in paths)
    return found


@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 10**6))
def test_link_prediction_matches_an_enumeration_of_paths(outputs, inputs, seed):
    edges = np.random.default_rng(seed).random((outputs, inputs)) < 0.5
    found = ch3_l3(torch.from_numpy(edges)).numpy()
    np.testing.assert_allclose(found, slow_ch3(edges) * ~edges, atol=1e-9)


def test_link_prediction_of_a_graph_by_hand():
    """The path u0 - o0 - i1 - v1 of the graph 0-0, 0-1, 1-1: neither node on it has another edge."""
    assert float(ch3_l3(torch.tensor([[True, True], [False, True]]))[1, 0]) == 1.0
    edges = torch.tensor([[True, True, True], [False, True, False], [False, False, True]])
    assert float(ch3_l3(edges)[1, 0]) == pytest.approx(2**-0.5)  # o0 leads to i2 as well, off the path


def test_link_prediction_of_kernels_and_groups_ranks_pairs_and_breaks_ties_at_random():
    layer = Layer("l", (6, 2, 3), groups=2)
    mask = torch.zeros(6, 2, 3, dtype=torch.bool)
    mask[0, 0, 1] = mask[0, 1, 2] = mask[1, 1, 0] = mask[4, 0, 0] = True  # group 0: outputs 0 to 2; group 1: 3 to 5
    pairs = channel_scores(layer, mask)
    expected = torch.cat([ch3_l3(part.any(2)) for part in mask.split(3)])
    assert pairs.equal(expected) and pairs[1, 0] == 1.0 and pairs.count_nonzero() == 1
    ranks = R.ch3(mask, layer, np.random.default_rng(0))
    assert ranks.reshape(-1).sort().values.equal(torch.arange(36.0, dtype=torch.float64))
    scores = pairs[:, :, None].expand(6, 2, 3).reshape(-1)
    assert (ranks.reshape(-1)[:, None] > ranks.reshape(-1))[scores[:, None] > scores].all()
    assert not ranks.equal(R.ch3(mask, layer, np.random.default_rng(1)))


@pytest.mark.parametrize(
    "name, message", [("nowhere.rule", "cannot be imported"), ("math.pow", "its parameter x must")]
)
def test_rules_that_cannot_be_called_are_refused(name, message):
    with pytest.raises(UserError, match=message):
        R.rule_named(name, R.GROW, "method.grow")


BOUNDS = st.tuples(st.integers(0, 3), st.integers(0, 40), st.sampled_from([0.0, 0.1, 1.0, 2.5, 300.0]))


def slow_proportions(total, shares, lower, upper):
    """Fix layers at their bounds one after the other, in exact arithmetic, until the rest is proportional."""
    shares, fixed = [Fraction(share) for share in shares], {}
    while True:
        free = [i for i in range(len(shares)) if i not in fixed]
        rest, weight = total - sum(fixed.values()), sum(shares[i] for i in free)
        exact = {i: rest * shares[i] / weight if weight else Fraction(0) for i in free}
        over = {i: upper[i] - exact[i] for i in free if exact[i] > upper[i]}
        under = {i: exact[i] - lower[i] for i in free if exact[i] < lower[i]}
        if not over and not under:
            return [fixed[i] if i in fixed else exact[i] for i in range(len(shares))]
        wrong, bound = (over, upper) if -sum(over.values()) >= -sum(under.values()) else (under, lower)
        fixed |= {i: Fraction(bound[i]) for i in wrong}


@given(st.lists(BOUNDS, min_size=1, max_size=6), st.floats(0, 1))
def test_weights_are_allocated_exactly_and_in_proportion(bounds, part):
    lower = [low for low, _, _ in bounds]
    upper = [low + more for low, more, _ in bounds]
    shares = [share for _, _, share in bounds]
    total = sum(lower) + round(part * (sum(upper) - sum(lower)))
    found = allocate(total, shares, lower, upper)
    assert sum(found) == total and all(low <= x <= high for low, x, high in zip(lower, found, upper, strict=True))
    assume(any(shares) and total <= sum(high if s else low for low, high, s in zip(lower, upper, shares, strict=True)))
    for value, exact in zip(found, slow_proportions(total, shares, lower, upper), strict=True):
        assert abs(value - exact) < 1 + 1e-6


def test_without_finite_shares_weights_go_where_there_is_room():
    assert allocate(6, [0.0, 0.0], [0, 0], [4, 8]) == [2, 4]
    assert allocate(6, [math.nan, 1.0], [0, 0], [4, 8]) == [2, 4]
    assert allocate(10, [1.0, 0.0], [0, 0], [4, 8]) == [4, 6]
    assert allocate(0, [], [], []) == []


def slow_rows(mask, drop, grow, count, targets):
    """Drop and grow one weight after the other, in lists."""
    active = sorted((drop[r][c], -r, -c) for r in range(len(mask)) for c in range(len(mask[0])) if mask[r][c])
    kept = {(-r, -c) for _, r, c in active[count:]}
    for r, target in enumerate(targets):
        row = sorted((p for p in kept if p[0] == r), key=lambda p: (-drop[p[0]][p[1]], p))
        kept -= set(row[target:])
        free = sorted(((r, c) for c in range(len(mask[0])) if (r, c) not in kept), key=lambda p: (-grow[p[0]][p[1]], p))
        kept |= set(free[: target - len(row[:target])])
    return kept


@given(st.integers(1, 5), st.integers(1, 6), st.integers(0, 10**6), st.floats(0, 1), st.floats(0, 0.99))
def test_rows_are_rewired_like_lists_and_keep_the_total(rows, width, seed, part, ablate):
    random = np.random.default_rng(seed)
    mask = random.random((rows, width)) < 0.6
    assume(mask.any())
    drop, grow = random.integers(0, 4, (2, rows, width)).astype(float)  # with ties
    active = int(mask.sum())
    count = int(part * (active - 1))
    tensors = [torch.from_numpy(a) for a in (mask, drop, grow)]
    salient = salient_weights(*tensors, count, active)
    targets = equal_targets(tensors[0], active, salient, ablate)
    after = rewired_rows(*tensors, count, active, targets)
    assert set(map(tuple, after.nonzero().tolist())) == slow_rows(mask, drop, grow, count, targets.tolist())
    sizes = after.sum(1)
    assert sizes.equal(targets) and after.sum() == active
    assert sizes[sizes > 0].max() - sizes[sizes > 0].min() <= 1 and (ablate or (sizes > 0).sum() == min(rows, active))


def test_an_ablation_by_hand():
    """Four channels of two weights; of eight, two are dropped. The third channel keeps none and gets no gradient."""
    mask = torch.tensor([[1, 1, 0, 0]] * 4).bool()
    drop = torch.tensor([[5.0, 6, 0, 0], [7, 8, 0, 0], [1, 2, 0, 0], [3, 4, 0, 0]])
    grow = torch.tensor([[0.0, 0, 9, 0], [0, 0, 8, 0], [0, 0, 0, 0], [0, 0, 0, 1]])
    salient = salient_weights(mask, drop, grow, 2, 8)
    assert salient.tolist() == [3, 3, 0, 2]
    assert equal_targets(mask, 8, salient, 0.0).tolist() == [2, 2, 2, 2]
    targets = equal_targets(mask, 8, salient, 0.5)
    assert targets.tolist() == [3, 3, 0, 2]  # eight weights over three channels, the most salient have one more
    after = rewired_rows(mask, drop, grow, 2, 8, targets)
    assert after.int().tolist() == [[1, 1, 1, 0], [1, 1, 1, 0], [0, 0, 0, 0], [1, 1, 0, 0]]
