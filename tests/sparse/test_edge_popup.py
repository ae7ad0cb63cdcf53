"""Edge-popup and topk_mask against sorting, enumeration, and gradients computed by hand."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from ersparse.sparse import edge_popup as S
from ersparse.sparse.layers import Layer
from ersparse.sparse.schedules import annealed_density
from ersparse.sparse.topk import _kth_largest, topk_mask


def by_sorting(values, count):
    """Largest first, lower index first under ties."""
    order = sorted(range(len(values)), key=lambda i: (-values[i], i))
    mask = np.zeros(len(values), dtype=bool)
    mask[order[:count]] = True
    return mask


@given(
    st.lists(st.sampled_from([-1.0, 0.0, 0.5, 0.501, 0.51, 1.0, 2.0, -math.inf]), min_size=1, max_size=40),
    st.data(),
)
def test_topk_matches_a_stable_sort(values, data):
    """The result does not depend on the previous threshold, with ties and -inf among the values."""
    count = data.draw(st.integers(0, len(values)))
    near = data.draw(st.sampled_from([None, -1.0, 0.0, 0.5, 0.505, 3.0]))
    mask, threshold = topk_mask(torch.tensor(values), count, near)
    assert np.array_equal(mask.numpy(), by_sorting(values, count))
    again, _ = topk_mask(torch.tensor(values), count, threshold)
    assert again.equal(mask)


@pytest.mark.parametrize("drift", [0.0, 1e-4, 0.1])
def test_previous_threshold_does_not_change_the_result(drift):
    random = torch.Generator().manual_seed(int(1e5 * drift))
    values = torch.rand(100_000, generator=random)
    _, near = topk_mask(values, 5000)
    moved = values + drift * torch.randn(len(values), generator=random)
    mask, _ = topk_mask(moved, 5000, near)
    assert np.array_equal(mask.numpy(), topk_mask(moved, 5000)[0].numpy())
    assert mask.sum() == 5000 and moved[mask].min() >= moved[~mask].max()


@pytest.mark.parametrize("values", [[3.0, -1.0, 2.0, 5.0, -4.0], [1.0, 1.0, 0.0, 0.0, 1.0, -math.inf], [2.0, 7.0]])
def test_the_threshold_on_a_gpu_is_that_of_a_sort(values):
    for count in range(1, len(values)):
        assert _kth_largest(torch.tensor(values), count) == sorted(values, reverse=True)[count - 1]


def test_topk_partitions_few_values(monkeypatch):
    """A good previous threshold leaves the fewest values to partition; a bad one falls back to a sample, not to all."""
    values = torch.rand(200_000, generator=torch.Generator().manual_seed(0))
    ordered, partition = [], np.partition
    monkeypatch.setattr(np, "partition", lambda some, place: ordered.append(len(some)) or partition(some, place))
    _, threshold = topk_mask(values, 10_000)
    for near in (threshold, threshold / 2):
        topk_mask(values, 10_000, near)
    assert ordered[0] == ordered[2] < 0.03 * len(values) and ordered[1] < 0.012 * len(values)


@pytest.mark.parametrize("shape", ["normal", "sorted", "few", "infinite", "trap"])
@pytest.mark.parametrize("share", [1e-5, 0.001, 0.3, 0.9999])
def test_sampled_threshold_does_not_change_the_result(shape, share):
    """Sizes at which a sample is taken, also with values for which the strided sample is not representative."""
    random = np.random.default_rng(0)
    values = random.normal(size=200_001).astype(np.float32)
    if shape == "sorted":
        values.sort()
    elif shape == "few":
        values = values.round()
    elif shape == "infinite":
        values[random.random(len(values)) < 0.5] = np.inf
    elif shape == "trap":
        values[::20] -= 10
    count = max(1, round(share * len(values)))
    mask, _ = topk_mask(torch.from_numpy(values), count)
    order = np.argsort(-values, kind="stable")[:count]
    assert set(np.flatnonzero(mask.numpy())) == set(order)


def test_ties_go_to_the_first_in_memory_order():
    """The mask has the memory format of the values, and does not depend on it for values without ties."""
    values = torch.rand(4, 3, 2, 2)
    last = values.contiguous(memory_format=torch.channels_last)
    for count in (1, 7, 40):
        assert topk_mask(values, count)[0].equal(topk_mask(last, count)[0])
        assert topk_mask(last, count)[0].is_contiguous(memory_format=torch.channels_last)
    tied = torch.zeros(2, 3, 1, 2).contiguous(memory_format=torch.channels_last)
    assert topk_mask(tied, 4)[0].nonzero().tolist() == [[0, 0, 0, 0], [0, 0, 0, 1], [0, 1, 0, 0], [0, 2, 0, 0]]


def test_counts_are_relative_to_the_dense_layer():
    layers = [Layer("a", (10, 10)), Layer("b", (3, 5)), Layer("c", (20, 100))]
    assert S.counts(layers, 0.1, [40, 15, 150]) == [10, 2, 150]
    assert S.counts(layers, 0.01, [40, 15, 150]) == [1, 0, 20]
    assert S.counts(layers, 0.01, [40, 15, 150], least=3) == [3, 3, 20]


def test_annealed_density_follows_its_schedule():
    """The geometric schedule has equal ratios, the linear one equal steps; the code's starts from 0.6 whatever p_0."""
    geometric = [annealed_density(0.5, 0.1, t, 5, "geometric") for t in range(6)]
    assert geometric[0] == 0.5 and geometric[-1] == pytest.approx(0.1)
    assert np.allclose(np.diff(np.log(geometric)), math.log(0.2) / 5)
    assert np.allclose(np.diff([annealed_density(0.5, 0.1, t, 5, "linear") for t in range(6)]), -0.08)
    code = [annealed_density(0.2, 0.1, t, 5, "code") for t in range(1, 6)]
    assert code[:3] == [0.2] * 3 and code[-1] == pytest.approx(0.1) and code[3] == pytest.approx(0.6 / 6 ** (4 / 5))


def example(signed, seed=0):
    random = torch.Generator().manual_seed(seed)
    scores = torch.randn(4, 3, 3, 3, generator=random, requires_grad=True)
    weight = torch.randn(4, 3, 3, 3, generator=random)
    allowed = torch.rand(weight.shape, generator=random) < 0.6
    mask, _ = topk_mask(S.ranking(scores, S.exclusion_bias(allowed), signed), 20)
    return scores, weight, allowed, mask


@pytest.mark.parametrize("signed", [False, True])
def test_forward_multiplies_by_a_hard_mask(signed):
    scores, weight, allowed, mask = example(signed)
    assert mask.dtype == torch.bool and mask.sum() == 20 and not (mask & ~allowed).any()
    found = S.masked(scores, weight * allowed, mask, signed)
    assert found.detach().numpy().tobytes() == (weight * mask).numpy().tobytes()


@pytest.mark.parametrize("signed", [False, True])
def test_straight_through_gradient_carries_the_sign_of_the_score(signed):
    """By hand: dL/d(w m) comes from a network with plain weights, and is multiplied by w and sign(s)."""
    scores, weight, allowed, mask = example(signed)
    x, target = torch.randn(2, 3, 5, 5), torch.randn(2, 4, 3, 3)
    (F.conv2d(x, S.masked(scores, weight * allowed, mask, signed)) - target).square().sum().backward()
    plain = (weight * mask).requires_grad_()
    (F.conv2d(x, plain) - target).square().sum().backward()
    expected = torch.zeros_like(weight)
    for place in itertools.product(*map(range, weight.shape)):
        if allowed[place]:
            sign = 1.0 if signed else math.copysign(1.0, scores[place].item())
            expected[place] = plain.grad[place] * weight[place] * sign
    torch.testing.assert_close(scores.grad, expected)
    assert (expected[~mask & allowed] != 0).any(), "weights that are out can come in"


def test_scores_outside_the_er_network_have_no_effect():
    scores, weight, allowed, mask = example(False)
    with torch.no_grad():
        scores[~allowed] = 1e9
    assert topk_mask(S.ranking(scores, S.exclusion_bias(allowed), False), 20)[0].equal(mask)
    S.masked(scores, weight * allowed, mask, False).sum().backward()
    assert scores.grad[~allowed].eq(0).all()


@pytest.mark.parametrize("signed", [False, True])
def test_search_finds_the_best_of_all_tickets(signed):
    """Of twelve weights, four may be kept: all 495 tickets are evaluated, and training the scores ends at the best.

    The loss is linear in what is kept, so that each score drifts at the rate of its weight's worth, whatever else is
    kept, and the order at the end is that of the worths. Of these at least four are positive: a magnitude cannot fall
    below zero, and would leave the rest in no order.
    """
    random = np.random.default_rng()
    weight = torch.from_numpy(random.normal(size=(1, 16)))
    allowed = torch.zeros(1, 16, dtype=torch.bool)
    places = random.permutation(16)[:12].tolist()
    allowed[0, places] = True
    slope = torch.from_numpy(random.normal(size=(1, 16)))
    slope[0, places[:6]] = -weight[0, places[:6]].sign() * torch.from_numpy(random.uniform(0.5, 1, 6))

    def loss(kept):
        return (slope * kept).sum()

    worths = (slope * weight)[0]
    best = min(worths[list(ticket)].sum().item() for ticket in itertools.combinations(places, 4))
    scores = torch.from_numpy(random.uniform(-0.1, 0.1, (1, 16))).requires_grad_()
    optimizer = torch.optim.SGD([scores], 0.1)
    for _ in range(2000):
        mask, _ = topk_mask(S.ranking(scores, S.exclusion_bias(allowed), signed), 4)
        optimizer.zero_grad()
        loss(S.masked(scores, weight * allowed, mask, signed)).backward()
        optimizer.step()
    assert loss(weight * mask).item() == pytest.approx(best, abs=2e-3)
