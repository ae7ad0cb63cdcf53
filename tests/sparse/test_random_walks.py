"""PHEW: probabilities of walks in closed form, exact numbers of weights, and networks with branches."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import ersparse
from ersparse.models import resnet20
from ersparse.sparse.channel_graph import trace
from ersparse.sparse.layers import prunable_layers
from ersparse.sparse.pruners import phew
from ersparse.sparse.random_walks import RandomWalks
from ersparse.sparse.reachability import effective_density
from ersparse.sparse.scores import ScoreError

NUMBER = 40_000
ONE_IN_A_MILLION = 4.9  # standard deviations


def perceptron():
    network = nn.Sequential(nn.Linear(2, 3, bias=False), nn.ReLU(), nn.Linear(3, 2, bias=False))
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([[1.0, -2.0], [3.0, 0.0], [-1.0, 1.0]]))
        network[2].weight.copy_(torch.tensor([[2.0, -1.0, 1.0], [0.5, 0.5, -4.0]]))
    return network


def expected(direction, first, second):
    """The probability that a walk takes each weight: the product of two transition matrices, by hand."""
    if direction == "forward":
        into = first / first.sum(0) / 2  # from each of two inputs
        return into, second / second.sum(0) * into.sum(1)
    into = second / second.sum(1, keepdim=True) / 2
    return first / first.sum(1, keepdim=True) * into.sum(0)[:, None], into


@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize("number, times", [(NUMBER, 1), (5, 800)])
def test_walks_take_weights_in_proportion_to_their_magnitude(direction, number, times):
    """Each count is held to 4.9 standard deviations; both ways of dividing walks are used, for many and for few."""
    network = perceptron()
    weights = {"0.weight": network[0].weight, "2.weight": network[2].weight}
    walks, random = RandomWalks(trace(network, (2, 2)), weights), np.random.default_rng(1)
    for _ in range(times):
        getattr(walks, direction)(number, random)
    total = number * times
    probabilities = expected(direction, *(weight.detach().abs() for weight in weights.values()))
    for name, p in zip(weights, probabilities, strict=True):
        assert walks.passed[name].sum() == total and p.sum() == pytest.approx(1)
        bound = ONE_IN_A_MILLION * (total * p * (1 - p)).sqrt() + 1e-9
        assert ((walks.passed[name] - total * p).abs() <= bound).all()


def test_a_convolution_takes_each_weight_of_a_kernel_by_its_magnitude():
    network = nn.Sequential(nn.Conv2d(1, 1, 2, bias=False))
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]]))
    walks = RandomWalks(trace(network, (2, 1, 4, 4)), {"0.weight": network[0].weight})
    for direction in (walks.forward, walks.backward):
        direction(NUMBER, np.random.default_rng(0))
    p = torch.tensor([0.1, 0.2, 0.3, 0.4])
    deviation = ONE_IN_A_MILLION * (2 * NUMBER * p * (1 - p)).sqrt()
    assert ((walks.passed["0.weight"].reshape(-1) - 2 * NUMBER * p).abs() <= deviation).all()


@pytest.mark.parametrize("density", [0.3, 0.02])
def test_a_residual_network_keeps_exactly_as_many_weights_on_paths(density):
    torch.manual_seed(0)
    network = resnet20(10, channels=1, width=0.25)
    layers = prunable_layers(network)
    total = sum(layer.size for layer in layers)
    count = round(density * total)
    masks = phew(network, count, (1, 16, 16), seed=3)
    assert sum(int(mask.sum()) for mask in masks.values()) == count
    graph = trace(network, (2, 1, 16, 16))
    assert effective_density(masks, layers, graph) * total >= count - len(layers)  # the last walk may be cut off
    again, other = phew(network, count, (1, 16, 16), seed=3), phew(network, count, (1, 16, 16), seed=4)
    assert all(mask.equal(again[name]) for name, mask in masks.items())
    assert any(not mask.equal(other[name]) for name, mask in masks.items())
    kept = [network.get_parameter(name).abs()[mask].mean() for name, mask in masks.items()]
    small = phew(network, count, (1, 16, 16), seed=3, invert=True)
    inverted = [network.get_parameter(name).abs()[small[name]].mean() for name in masks]
    assert sum(a > b for a, b in zip(kept, inverted, strict=True)) > 0.9 * len(kept)


def test_weights_of_zero_are_never_reached():
    network = perceptron()
    assert phew(network, 11, (2,))["0.weight"].sum() == 5
    with pytest.raises(ScoreError, match="walks reach 11 weights, 12 are to be kept"):
        phew(network, 12, (2,))
    assert math.isclose(
        ersparse.sparsify(perceptron(), "phew", 0.5, shape=(2,), flow="none").record["sparsity"]["nominal"], 0.5
    )
