"""Scores against finite differences, closed forms and conservation; masks against a stable sort."""

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from ersparse.models.resnet import resnet20, resnet50, resnet110
from ersparse.models.vgg import vgg16
from ersparse.sparse import scores as S
from ersparse.sparse.channel_graph import trace
from ersparse.sparse.layers import prunable_layers
from ersparse.sparse.reachability import cut, outputs_reached

SHAPE = (3, 32, 32)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return resnet20(10, width=0.25).double()


@pytest.fixture(scope="module")
def batch():
    random = torch.Generator().manual_seed(1)
    return torch.randn(20, 3, 8, 8, generator=random).double(), torch.arange(20) % 10


def loss_of(network, batch, temperature=1.0):
    return F.cross_entropy(network.train()(batch[0]) / temperature, batch[1])


def gradient_of(network, batch, temperature=1.0):
    """Return the gradient of all prunable weights as one vector, by .backward(), which the scores do not use."""
    network.zero_grad()
    loss_of(network, batch, temperature).backward()
    return torch.cat([network.get_parameter(layer.name).grad.reshape(-1) for layer in prunable_layers(network)])


def places(network, count):
    """Return `count` random weights of every layer."""
    random = np.random.default_rng(2)
    return [(layer.name, int(i)) for layer in prunable_layers(network) for i in random.integers(layer.size, size=count)]


def moved(network, name, index, step):
    network = copy.deepcopy(network)
    with torch.no_grad():
        network.get_parameter(name).view(-1)[index] += step
    return network


def test_snip_matches_finite_differences_of_the_loss(network, batch):
    """|theta (L(theta + e) - L(theta - e)) / 2e|, central differences."""
    scores, by_hand = S.snip(network, [batch]), {}
    for name, i in places(network, 2):
        ahead, behind = (loss_of(moved(network, name, i, e), batch).item() for e in (1e-6, -1e-6))
        weight = float(network.get_parameter(name).detach().view(-1)[i])
        by_hand[name, i] = abs(weight * (ahead - behind) / 2e-6)
    error = 1e-6 * max(by_hand.values())  # of the differences, hence not in proportion to the scores under test
    for (name, i), expected in by_hand.items():
        assert float(scores[name].view(-1)[i]) == pytest.approx(expected, rel=1e-3, abs=error), name


def test_grasp_matches_finite_differences_of_the_gradient_norm(network, batch):
    """d|g|^2 / ds where weight q is s theta_q, at s = 1, is 2 theta_q (Hg)_q. The opposite sign fails."""
    temperature = 3.0
    scores, slopes = S.grasp(network, [batch], temperature), {}
    for name, i in places(network, 2):
        weight = float(network.get_parameter(name).detach().view(-1)[i])
        ahead, behind = (
            float(gradient_of(moved(network, name, i, e * weight), batch, temperature).square().sum())
            for e in (1e-7, -1e-7)
        )
        slopes[name, i] = (ahead - behind) / 2e-7 / 2
    error = 1e-5 * max(map(abs, slopes.values()))
    for (name, i), slope in slopes.items():
        assert float(scores[name].view(-1)[i]) == pytest.approx(slope, rel=1e-3, abs=error), name


def test_pruning_by_grasp_preserves_more_gradient_flow(network, batch):
    scores = S.grasp(network, [batch])
    total = sum(score.numel() for score in scores.values())
    few = total // 50

    def norm_without(removed):
        pruned = copy.deepcopy(network)
        with torch.no_grad():
            for name, mask in removed.items():
                pruned.get_parameter(name).masked_fill_(mask, 0)
        kept = ~torch.cat([mask.reshape(-1) for mask in removed.values()])
        return float(gradient_of(pruned, batch, 200.0)[kept].norm())

    highest = S.largest(scores, few)
    lowest = S.largest({name: -score for name, score in scores.items()}, few)
    assert norm_without(lowest) > norm_without(highest)


def test_scores_do_not_depend_on_the_split_into_batches():
    """Without BatchNorm, the split of the images into batches does not matter."""
    torch.manual_seed(3)
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 4)).double()
    x, y = torch.randn(10, 3, 2, 2).double(), torch.arange(10) % 4
    for score in (S.snip, S.grasp):
        whole, cut_up = score(network, [(x, y)]), score(network, [(x[:3], y[:3]), (x[3:], y[3:])])
        for name in whole:
            torch.testing.assert_close(cut_up[name], whole[name], rtol=1e-12, atol=0)


def test_scoring_does_not_change_the_network(network, batch):
    before = {key: value.clone() for key, value in network.state_dict().items()}
    S.snip(network, [batch]), S.grasp(network, [batch]), S.synflow(network, SHAPE), S.synflow_masks(network, SHAPE, 99)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_synflow_of_a_linear_network_matches_closed_form():
    """|W_l| times (ones |W_L| .. |W_l+1|) for each row and (|W_l-1| .. |W_1| ones) for each column."""
    torch.manual_seed(4)
    network = nn.Sequential(*[nn.Linear(n_in, n_out) for n_in, n_out in ((5, 7), (7, 4), (4, 3))])
    scores = S.synflow(network, (5,))
    W = [layer.weight.detach().double().abs().numpy() for layer in network]
    into = [np.ones(5), W[0] @ np.ones(5), W[1] @ W[0] @ np.ones(5)]
    outof = [np.ones(3) @ W[2] @ W[1], np.ones(3) @ W[2], np.ones(3)]
    for number, name in enumerate(scores):
        by_hand = W[number] * np.outer(outof[number], into[number])
        np.testing.assert_allclose(scores[name], by_hand, rtol=1e-12)


def trained(network):
    """Give BatchNorm random means, variances, scales and shifts, as after training."""
    random = torch.Generator().manual_seed(5)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.bias.data, module.running_mean):
                tensor.copy_(torch.randn(tensor.shape, generator=random))
            module.running_var.copy_(torch.rand(module.running_var.shape, generator=random) + 0.5)
    return network


def test_flow_is_conserved_in_every_layer_of_a_chain():
    torch.manual_seed(6)
    sums = [float(score.sum()) for score in S.synflow(trained(vgg16(10, width=0.25)), SHAPE).values()]
    assert sums == pytest.approx([sums[0]] * len(sums), rel=1e-9) and sums[0] > 0


def test_flow_is_conserved_in_every_cut_of_a_residual_network(network):
    """The stem, the classifier, and each block plus its shortcut convolution have equal total scores."""
    sums = {name: float(score.sum()) for name, score in S.synflow(trained(copy.deepcopy(network)), SHAPE).items()}
    whole = sums["conv1.weight"]
    assert sums["classifier.weight"] == pytest.approx(whole, rel=1e-9)
    blocks = [name.removesuffix(".conv1.weight") for name in sums if name.endswith(".conv1.weight")]
    for block in blocks:
        assert sums[f"{block}.conv1.weight"] == pytest.approx(sums[f"{block}.conv2.weight"], rel=1e-9)
        if shortcut := sums.get(f"{block}.shortcut.0.weight"):
            assert sums[f"{block}.conv2.weight"] + shortcut == pytest.approx(whole, rel=1e-9)
    assert sum(f"{block}.shortcut.0.weight" in sums for block in blocks) == 2


@given(st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0]), min_size=2, max_size=30), st.data())
def test_largest_matches_a_stable_sort_over_all_layers(values, data):
    within = data.draw(st.lists(st.booleans(), min_size=len(values), max_size=len(values)))
    count, half = data.draw(st.integers(0, sum(within))), len(values) // 2
    order = sorted((i for i in range(len(values)) if within[i]), key=lambda i: (-values[i], i))
    first_last = {"a": slice(None, half), "b": slice(half, None)}
    masks = S.largest(
        {name: torch.tensor(values)[part] for name, part in first_last.items()},
        count,
        {name: torch.tensor(within)[part] for name, part in first_last.items()},
    )
    assert torch.cat([masks["a"], masks["b"]]).nonzero().flatten().tolist() == sorted(order[:count])


def test_dropout_of_a_batch_is_the_same_whenever_it_is_scored():
    """GraSP scores each batch twice; the caller's random numbers are not used up."""
    network = nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.5), nn.Linear(8, 3))
    batches = [(torch.ones(4, 6), torch.arange(4) % 3)] * 2
    before = torch.get_rng_state()
    for score in (S.snip, S.grasp):
        first = score(network, batches)
        torch.manual_seed(1)
        assert all(values.equal(first[name]) for name, values in score(network, batches).items())
    torch.set_rng_state(before)
    S.grasp(network, batches)
    assert torch.get_rng_state().equal(before)


def test_invalid_scores_are_errors():
    with pytest.raises(S.ScoreError, match=r"layer b: .* float64"):
        S.largest({"a": torch.ones(2), "b": torch.tensor([1.0, math.nan])}, 1)
    with pytest.raises(S.ScoreError, match=r"3 weights .* \[0, 2\]"):
        S.largest({"a": torch.ones(2)}, 3)


def prune(network, sparsity, rounds=100, shape=SHAPE):
    """Return SynFlow's masks after checking their count and that there is no layer collapse."""
    layers = prunable_layers(network)
    count = round(sum(layer.size for layer in layers) * (1 - sparsity))
    masks = S.synflow_masks(network, shape, count, rounds)
    assert sum(int(mask.sum()) for mask in masks.values()) == count
    assert cut(masks, layers, trace(network)) == []
    return masks


def test_synflow_rounds_follow_algorithm_1(network):
    """A second implementation with a sort and the schedule of Tanaka et al. agrees; one round gives other masks."""
    masks, total = prune(network, 0.99, rounds=10), sum(layer.size for layer in prunable_layers(network))
    pruned, count = copy.deepcopy(network), round(total * 0.01)
    for number in range(1, 11):
        left = max(count, round(total * (count / total) ** (number / 10)))
        scores = torch.cat([score.reshape(-1) for score in S.synflow(pruned, SHAPE).values()]).numpy()
        kept = np.zeros(total, dtype=bool)
        kept[np.argsort(-scores, kind="stable")[:left]] = True
        parts = torch.from_numpy(kept).split([mask.numel() for mask in masks.values()])
        by_hand = {name: part.reshape(masks[name].shape) for name, part in zip(masks, parts, strict=True)}
        for name, mask in by_hand.items():
            pruned.get_parameter(name).data.mul_(mask)
    assert all(torch.equal(masks[name], by_hand[name]) for name in masks)
    at_once = S.synflow_masks(network, SHAPE, count, rounds=1)
    assert any(not torch.equal(masks[name], at_once[name]) for name in masks)


def test_synflow_masks_stay_within_the_given_masks(network):
    within = {layer.name: torch.rand(layer.shape) < 0.5 for layer in prunable_layers(network)}
    masks = S.synflow_masks(network, SHAPE, 500, rounds=5, within=within)
    assert all((masks[name] <= within[name]).all() for name in masks)
    assert sum(int(mask.sum()) for mask in masks.values()) == 500


def test_layer_collapse_names_the_cut():
    """Magnitude removes the middle layer, whose weights are small, and SynFlow does not."""
    torch.manual_seed(7)
    network = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
    network[2].weight.data *= 1e-3
    layers, steps = prunable_layers(network), trace(network)
    collapsed = S.largest(S.magnitude(network), 64)
    assert cut(collapsed, layers, steps) == ["2.weight"]
    assert not outputs_reached(collapsed, layers, steps).any()
    assert cut(S.synflow_masks(network, (8,), 64), layers, steps) == []


def test_an_empty_layer_with_a_parallel_branch_is_no_cut(network):
    layers, steps = prunable_layers(network), trace(network)
    masks = {layer.name: torch.ones(layer.shape, dtype=torch.bool) for layer in layers}
    masks["stages.1.0.shortcut.0.weight"][:] = False
    assert cut(masks, layers, steps) == []
    masks["stages.1.0.conv2.weight"][:] = False
    assert cut(masks, layers, steps) == ["stages.1.0.conv2.weight", "stages.1.0.shortcut.0.weight"]


@pytest.mark.slow
@pytest.mark.parametrize("sparsity", [0.9, 0.99, 0.999])
@pytest.mark.parametrize(
    "build, side, rounds", [(resnet110, 32, 100), pytest.param(resnet50, 8, 10, marks=pytest.mark.by_hand)]
)
def test_synflow_of_deep_networks_is_finite_without_collapse(build, side, rounds, sparsity):
    """`largest` raises on a score that is not finite, in any of the rounds. Small images and few rounds spare resnet50,
    with its 23.7 million weights, many minutes.
    """
    torch.manual_seed(8)
    prune(build(100), sparsity, rounds, (3, side, side))
