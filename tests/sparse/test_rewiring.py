"""Rewiring against hand-computed updates, a reference with stable sorts, and closed-form optimizer steps."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from ersparse.sparse import rewiring as R
from ersparse.sparse import schedules
from ersparse.sparse.degrees import zero_degrees
from ersparse.sparse.flow_repair import move
from ersparse.sparse.layers import Layer
from ersparse.sparse.rewiring_figures import layer_figures

# One layer, half of its four active weights dropped. Of the active weights 1 and 2 tie in magnitude; 3 is zero.
MASK = [True, True, True, True, False, False, False, False]
WEIGHT = [0.5, 0.2, -0.2, 0.0, 0.0, 0.0, 0.0, 0.0]
GRADIENT = [0.1, 0.9, -0.9, 0.3, 0.3, -0.4, 0.0, 0.3]  # 3, 4 and 7 tie


def layer(values):
    return torch.tensor(values).reshape(2, 4)


def places(mask):
    return mask.reshape(-1).nonzero().reshape(-1).tolist()


def update(mask, drop, grow, share, regrow):
    return R.update(mask, drop, grow, R.drop_count(int(mask.sum()), mask.numel(), share, regrow), regrow)


def by_hand(share, regrow):
    return update(layer(MASK), R.magnitude(layer(WEIGHT)), R.magnitude(layer(GRADIENT)), share, regrow)


@pytest.mark.parametrize(
    "share, regrow, removed, grown",
    [
        (0.5, True, [3], [5]),  # drops 2 and 3; the largest gradients are those of 2, which so stays, and 5
        (0.5, False, [2, 3], [4, 5]),  # 2 may not come back; 4 and 7 tie for the second place
        (0.25, True, [3], [5]),  # drops 3, though it is active with a value of zero
        (0.75, True, [3], [5]),  # drops 1, 2 and 3; 1, 2 and 5 have the largest gradients
        (0.75, False, [1, 2, 3], [4, 5, 7]),
        (0.2, True, [], []),  # 0.8 of a weight
    ],
)
def test_update_matches_hand_computed_masks(share, regrow, removed, grown):
    found = by_hand(share, regrow)
    assert places(found.removed) == removed and places(found.grown) == grown


@pytest.mark.parametrize("regrow", [True, False])
def test_a_dense_layer_does_not_change(regrow):
    full = torch.ones(2, 4, dtype=torch.bool)
    found = update(full, R.magnitude(layer(WEIGHT)), R.magnitude(layer(GRADIENT)), 0.5, regrow)
    assert places(found.removed) == places(found.grown) == []


def test_growth_is_limited_by_inactive_weights():
    """Six of eight weights are active and half of them are due, but only two can be grown."""
    mask = layer([True] * 6 + [False] * 2)
    found = update(mask, layer([3.0, 1.0, 2.0, 6.0, 5.0, 4.0, 0.0, 0.0]), torch.zeros(2, 4), 0.5, regrow=False)
    assert places(found.removed) == [1, 2] and places(found.grown) == [6, 7]


def reference(mask, weight, gradient, count, regrow):
    """The mask after one update, by two stable sorts of lists."""
    active = [i for i, there in enumerate(mask) if there]
    kept = set(sorted(active, key=lambda i: (-abs(weight[i]), i))[: len(active) - count])
    free = [i for i in range(len(mask)) if i not in kept and (regrow or not mask[i])]
    return kept | set(sorted(free, key=lambda i: (-abs(gradient[i]), i))[:count])


VALUES = st.sampled_from([0.0, -0.0, 0.1, -0.1, 0.5, -2.0, math.inf])  # few, so that most cases have ties
WEIGHTS = st.lists(st.tuples(st.booleans(), VALUES, VALUES), min_size=1, max_size=40)


@pytest.mark.parametrize("size", [1, 2, 12, 4608, 2**14])
def test_the_order_of_ties_is_a_permutation_whose_beginning_is_spread_over_the_layer(size):
    order = R.spread_order(size, 0, "layer", 100, torch.device("cpu"))
    assert order.sort().values.equal(torch.arange(size))
    half = (order[: size // 2] < size / 2).float().mean()
    assert size < 100 or abs(half - 0.5) < 0.1
    assert size < 100 or not order.equal(R.spread_order(size, 0, "layer", 200, torch.device("cpu")))


@pytest.mark.parametrize("device_order", [None, "spread"])
def test_equal_gradients_grow_all_over_the_layer_if_asked_to(device_order):
    """As bfloat16 makes them: without an order, the first channels get them all."""
    mask, drop = torch.zeros(64, 100, dtype=torch.bool), torch.ones(64, 100)
    mask[:, 0] = True
    grow = torch.ones(64, 100).masked_fill_(torch.arange(6400).reshape(64, 100) % 7 == 0, 2.0)
    order = R.spread_order(6400, 0, "layer", 1, torch.device("cpu")) if device_order else None
    count = int((~mask & (grow == 2)).sum()) + 50
    change = R.update(mask, drop, grow, count, False, 64 + count, order=order)
    tied = change.grown & (grow == 1)
    assert (change.grown.sum(), tied.sum()) == (count, 50) and change.grown[~mask & (grow == 2)].all()
    assert int((tied.sum(1) > 0).sum()) == (1 if order is None else pytest.approx(50, abs=5))


@given(WEIGHTS, st.floats(0.01, 0.99), st.booleans())
def test_update_matches_stable_sorts_and_preserves_the_count(weights, share, regrow):
    mask, weight, gradient = map(list, zip(*weights, strict=True))
    tensors = torch.tensor(mask), torch.tensor(weight), torch.tensor(gradient)
    found = update(tensors[0], R.magnitude(tensors[1]), R.magnitude(tensors[2]), share, regrow)
    after = tensors[0] & ~found.removed | found.grown
    count = 0 if all(mask) else int(share * sum(mask))
    count = count if regrow else min(count, mask.count(False))
    assert set(places(after)) == reference(mask, weight, gradient, count, regrow)
    assert after.sum() == sum(mask)
    assert not (found.removed & ~tensors[0]).any() and not (found.grown & tensors[0]).any()
    if not regrow:
        assert found.grown.sum() == found.removed.sum() == count


@pytest.mark.parametrize("regrow", [True, False])
def test_nan_weights_preserve_the_count(regrow):
    """With all scores NaN, the selection is arbitrary, but the number of active weights is preserved."""
    lost = torch.full((2, 4), math.nan)
    found = update(layer(MASK), R.magnitude(lost), R.magnitude(lost), 0.5, regrow)
    assert (layer(MASK) & ~found.removed | found.grown).sum() == 4


def test_drop_fraction_follows_its_schedule():
    assert [schedules.drop_fraction(0.5, 0.0, part, "constant") for part in (0, 0.5, 1)] == [0.5, 0.5, 0.5]
    assert [schedules.drop_fraction(0.5, 0.1, part, "linear") for part in (0, 0.25, 1)] == pytest.approx(
        [0.5, 0.4, 0.1]
    )
    cosine = [schedules.drop_fraction(0.5, 0.005, part, "cosine") for part in (0, 1 / 3, 0.5, 1)]
    assert cosine == pytest.approx([0.5, 0.005 + 0.495 * 0.75, 0.2525, 0.005])


def test_a_cyclic_density_falls_and_rises():
    """With two cycles: at the end of the first third, at its peak after two thirds, and at the end again."""
    found = [schedules.pruned_density(0.5, 0.1, part, "cyclic", 2) for part in (0, 1 / 6, 1 / 3, 2 / 3, 1)]
    assert found == pytest.approx([0.5, 0.3, 0.1, 0.5, 0.1])
    once = [schedules.pruned_density(0.5, 0.1, part, "cyclic", 1) for part in (0, 0.5, 1)]
    assert once == pytest.approx([0.5, 0.3, 0.1])


def test_random_growth_depends_on_seed_layer_and_step_only():
    drawn = R.random_growth_scores((30, 40), 1, "a", 100)
    torch.rand(5)
    assert drawn.equal(R.random_growth_scores((30, 40), 1, "a", 100))
    for other in [(2, "a", 100), (1, "b", 100), (1, "a", 200)]:
        assert not drawn.equal(R.random_growth_scores((30, 40), *other))


def test_random_growth_is_uniform():
    """Chi-squared test that each of four inactive weights is grown in a quarter of 4000 draws; fails once in 1e6."""
    mask = torch.tensor([True, False, False, False, False, True])
    seen = np.zeros(6)
    for step in range(4000):
        found = update(mask, torch.arange(6.0), R.random_growth_scores((6,), 0, "a", step), 0.5, regrow=False)
        seen += found.grown.numpy()
    assert seen[mask.numpy()].sum() == 0 and seen.sum() == 4000
    assert ((seen[1:5] - 1000) ** 2 / 1000).sum() < 30.7


def trained(optimizer_of, memory_format=torch.contiguous_format):
    """Return a convolution's weight after two steps, its optimizer, its mask, and a change of the mask."""
    random = torch.Generator().manual_seed(0)
    weight = nn.Parameter(torch.randn(4, 3, 3, 3, generator=random).to(memory_format=memory_format))
    mask = torch.rand(weight.shape, generator=random) < 0.5
    optimizer = optimizer_of([weight])
    for _ in range(2):
        weight.grad = torch.randn(weight.shape, generator=random).to(memory_format=memory_format)
        optimizer.step()
        weight.data.mul_(mask)
    found = update(mask, R.magnitude(weight), R.magnitude(weight.grad), 0.3, regrow=False)
    assert found.grown.any() and found.removed.any()
    return weight, optimizer, mask, found


def sgd(parameters):
    return torch.optim.SGD(parameters, 0.1, momentum=0.9, fused=True)


def adam(parameters):
    return torch.optim.Adam(parameters, 0.1, amsgrad=True, fused=True)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("optimizer_of, kept", [(sgd, 1), (adam, 3)])
def test_grown_weights_start_with_zero_value_and_optimizer_state(optimizer_of, kept, memory_format):
    weight, optimizer, mask, found = trained(optimizer_of, memory_format)
    old_mask, old_weight = mask.clone(), weight.detach().clone()
    state = optimizer.state[weight]
    before = {key: value.clone() for key, value in state.items()}
    R.apply(found, mask, weight, state)
    assert mask.equal(old_mask & ~found.removed | found.grown)
    moved = found.removed | found.grown
    assert weight[moved].eq(0).all() and not weight[moved].signbit().any()
    assert weight[~moved].equal(old_weight[~moved])
    of_weights = [key for key in state if state[key].shape == weight.shape]
    assert len(of_weights) == kept
    for key in state:
        if key in of_weights:
            assert before[key][moved].ne(0).all(), "there was state to reset"
            assert state[key][moved].eq(0).all()
            assert state[key][~moved].equal(before[key][~moved])
        else:
            assert state[key].equal(before[key])


def test_first_steps_of_grown_weights_match_closed_form():
    """Earlier gradients have no effect: SGD moves by -lr g, and Adam's third step follows from m = v = 0."""
    for optimizer_of in (sgd, adam):
        weight, optimizer, mask, found = trained(optimizer_of)
        R.apply(found, mask, weight, optimizer.state[weight])
        gradient = weight.grad[found.grown]
        optimizer.step()
        expected = -0.1 * gradient
        if optimizer_of is adam:
            m, v = 0.1 * gradient / (1 - 0.9**3), 0.001 * gradient.square() / (1 - 0.999**3)
            expected = -0.1 * m / (v.sqrt() + 1e-8)
        torch.testing.assert_close(weight.detach()[found.grown], expected)


def test_apply_before_the_first_step_needs_no_optimizer_state():
    weight, _, mask, found = trained(sgd)
    R.apply(found, mask, weight, {})
    R.apply(found, mask, weight, {"momentum_buffer": None})


def test_growing_weights_at_zero_preserves_the_output():
    """Grown weights are zero, so the output equals, bit for bit, that after the removals alone."""
    weight, _, mask, found = trained(sgd)
    images = torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    dropped = nn.functional.conv2d(images, weight.detach() * ~found.removed)
    with torch.no_grad():
        weight[found.grown] = 7.0  # what an inactive weight holds must not matter
    R.apply(found, mask, weight, {})
    assert nn.functional.conv2d(images, weight.detach()).equal(dropped)


def test_pruned_density_follows_the_cubic_schedule():
    """s_t = s_f + (s_i - s_f) (1 - t)^3, computed by hand at both ends and half-way."""
    assert [schedules.pruned_density(0.5, 0.01, part, "cubic") for part in (0, 0.5, 1)] == pytest.approx(
        [0.5, 0.07125, 0.01]
    )
    assert schedules.pruned_density(0.5, 0.01, 0.7, "constant") == 0.5


def test_global_drop_counts_follow_the_smallest_weights():
    """Four of nine weights in layers that are not dense are dropped, three of them in b; c is dense and drops none."""
    masks = {"a": torch.tensor([True] * 4 + [False]), "b": torch.tensor([True] * 5 + [False]),
             "c": torch.ones(3, dtype=torch.bool)}  # fmt: skip
    drop = {"a": torch.tensor([9.0, 8, 7, 1.5, 0]), "b": torch.tensor([1.0, 2, 3, 8, 9, 0]), "c": torch.zeros(3)}
    assert R.global_drop_counts(masks, drop, 0.45, regrow=True) == {"a": 1, "b": 3, "c": 0}
    assert R.global_drop_counts(masks, drop, 0.45, regrow=False) == {"a": 1, "b": 1, "c": 0}
    assert R.global_drop_counts({"c": masks["c"]}, drop, 0.45, regrow=True) == {"c": 0}


def test_global_pruning_keeps_the_largest_scores():
    masks = {"a": torch.tensor([True, True, False, True]), "b": torch.tensor([[True, False], [True, True]])}
    keep = {"a": torch.tensor([5.0, 1.0, 99.0, 3.0]), "b": torch.tensor([[4.0, 99.0], [3.0, 0.0]])}
    found = R.prune_globally(masks, keep, 3)  # 5, 4, and of the two threes the earlier
    assert places(found["a"].removed) == [1] and places(found["b"].removed) == [2, 3]
    assert not any(change.grown.any() for change in found.values())
    assert not any(change.removed.any() for change in R.prune_globally(masks, keep, 99).values())


@given(st.integers(0, 10**6), st.sampled_from([(8, 6, 3, 3), (6, 10), (9, 4, 1, 1)]), st.sampled_from([1.0, 1.5, 3.0]))
def test_repaired_change_preserves_flow_and_count(seed, shape, crowd):
    """Counts start at the minimum that gives every channel an edge, and nine tenths of the weights are dropped."""
    random = np.random.default_rng(seed)
    layer_ = Layer("x", shape)
    least = max(layer_.n_out, layer_.n_in)
    drawn = torch.from_numpy(random.permutation(np.arange(layer_.size) < crowd * least).reshape(shape))
    mask, counts = move(drawn, layer_, 1.0, random)
    assert zero_degrees(mask, layer_) == (0, 0) and counts.added_in == counts.added_out == 0
    change = update(mask, torch.from_numpy(random.random(shape)), torch.from_numpy(random.random(shape)), 0.9, True)
    kept = R.repair_changes({"a": change}, {"a": mask}, {"a": layer_}, lambda _: random)["a"]
    after = (mask & ~kept.removed) | kept.grown
    assert zero_degrees(after, layer_) == (0, 0) and after.sum() == mask.sum()
    assert not (kept.removed & ~mask).any() and not (kept.grown & mask).any()


def test_apply_can_set_values_and_keep_optimizer_state():
    weight, optimizer, mask, found = trained(sgd)
    values, before = torch.randn(weight.shape), optimizer.state[weight]["momentum_buffer"].clone()
    R.apply(found, mask, weight, optimizer.state[weight], values, reset_state=False)
    assert weight[found.grown].equal(values[found.grown]) and weight[found.removed].eq(0).all()
    assert optimizer.state[weight]["momentum_buffer"].equal(before)


def test_figures_of_a_layer_by_hand():
    """Of three output channels one has no input, and of four input channels two have no output."""
    mask = torch.tensor([[1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]).bool()
    source, ever = torch.zeros(3, 4).bool(), torch.ones(3, 4).bool()
    source[0, 0] = ever[2, 3] = True
    ever[0, :3] = False
    change = R.Change(torch.tensor([[0, 0, 1, 1]]).bool(), torch.tensor([[0, 1, 0, 0]]).bool())
    found = layer_figures(mask, Layer("a", (3, 4)), source, ever, change)
    assert [float(figure) for figure in found] == [3, 2, 1, 1, 9 / 12, 1, 2, 0, 1, 2, 0, 0.5, 2]
    assert [float(f) for f in layer_figures(mask, Layer("a", (3, 4)), source, ever, None)[1:3]] == [0, 0]
