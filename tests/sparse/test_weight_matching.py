"""Permutations of channels leave the function as it is, are found again in a permuted copy, and are locally best."""

from itertools import permutations

import pytest
import torch
from torch import nn

from ersparse.models.resnet import resnet20
from ersparse.models.vgg import vgg16
from ersparse.sparse.channel_axes import channel_axes
from ersparse.sparse.channel_graph import trace
from ersparse.sparse.layers import prunable_layers
from ersparse.sparse.weight_matching import match, matched_masks, permuted


class Branches(nn.Module):
    """Depthwise and grouped convolutions, a concatenation, a gate, a layer that is used twice, a padded sum."""

    def __init__(self):
        super().__init__()
        self.stem, self.left = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 4, 1)
        self.depthwise, self.mixed = nn.Conv2d(6, 6, 3, padding=1, groups=6), nn.Conv2d(10, 8, 1)
        self.gate, self.twice, self.wide = nn.Linear(8, 8), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 12, 1)
        self.grouped, self.short = nn.Conv2d(12, 9, 1, groups=3), nn.Conv2d(9, 5, 1)
        self.last, self.head = nn.Conv2d(9, 7, 1), nn.Linear(7 * 4, 3)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        x = torch.relu(self.mixed(torch.cat([self.left(x), torch.relu(self.depthwise(x))], 1)))
        x = x * torch.sigmoid(self.gate(x.mean((2, 3))))[..., None, None]
        x = torch.relu(self.twice(torch.relu(self.twice(x))))
        x = self.grouped(torch.relu(self.wide(x)))
        x = x + nn.functional.pad(self.short(x), (0, 0, 0, 0, 2, 2))
        x = nn.functional.adaptive_avg_pool2d(torch.relu(self.last(x)), 2)
        return self.head(x.flatten(1))


def library(name):
    def build():
        torchvision = pytest.importorskip("torchvision")
        return getattr(torchvision.models, name)(num_classes=10)

    return build


def mlp():
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 9), nn.ReLU(), nn.Linear(9, 7), nn.ReLU(), nn.Linear(7, 3))


NETWORKS = {
    "resnet20": (lambda: resnet20(10, width=0.25), 8, 9 + 3),  # in each block, and three streams
    "vgg16": (lambda: vgg16(10, width=0.06), 32, 13),
    "mlp": (mlp, 8, 2),
    "branches": (Branches, 8, 4),  # stem, left, mixed (with gate and twice), last
}
LIBRARY = {"mobilenet_v2": 25, "densenet121": 120, "shufflenet_v2_x1_0": 21}


CASES = [
    *(pytest.param(*case, id=name) for name, case in NETWORKS.items()),
    *(pytest.param(library(name), 32, count, id=name, marks=pytest.mark.slow) for name, count in LIBRARY.items()),
]


def built(build):
    """Return a network in float64 whose biases and normalisations treat all channels alike."""
    torch.manual_seed(0)
    network = build().double().eval()
    names = {layer.name for layer in prunable_layers(network)}
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name not in names:
                parameter.fill_(1.0 if parameter.dim() == 1 and name.endswith("weight") else 0.0)
    return network, {name: network.get_parameter(name).detach().clone() for name in names}


@torch.no_grad()
@pytest.mark.parametrize("build, side, count", CASES)
def test_a_permuted_copy_computes_the_same_and_is_recognised(build, side, count):
    network, weights = built(build)
    graph = trace(network, (2, 3, side, side))
    axes = channel_axes(graph, {name: weight.numel() for name, weight in weights.items()})
    assert len(axes.sizes) == count
    order = {axis: torch.randperm(size) for axis, size in axes.sizes.items()}
    images = torch.randn(2, 3, side, side, dtype=torch.float64)
    before, other = network(images), permuted(weights, axes, order)
    for name, weight in other.items():
        network.get_parameter(name).copy_(weight)
    torch.testing.assert_close(network(images), before)
    found = match(weights, other, axes, seed=0)
    assert all(found[axis].equal(order[axis]) for axis in order)
    masks = {name: torch.rand(weight.shape) < 0.3 for name, weight in weights.items()}
    matched = matched_masks(masks, weights, other, graph, seed=0)
    wanted = permuted(masks, axes, order)
    assert all(matched[name].equal(wanted[name]) and matched[name].dtype == torch.bool for name in masks)
    assert any(not matched[name].equal(masks[name]) for name in masks)


def test_no_permutation_of_one_axis_is_better():
    """The reference tries all orders of each hidden layer, and sums products of single weights."""
    torch.manual_seed(1)
    first, second = (nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2))
                     for _ in range(2))  # fmt: skip
    graph = trace(first, (2, 3))
    weights, others = ({layer.name: network.get_parameter(layer.name).detach() for layer in prunable_layers(network)}
                       for network in (first, second))  # fmt: skip
    axes = channel_axes(graph, {name: weight.numel() for name, weight in weights.items()})
    found = [order.tolist() for order in match(weights, others, axes, seed=0).values()]

    def similarity(hidden, deeper):
        rows = {"0.weight": (hidden, range(3)), "2.weight": (deeper, hidden), "4.weight": (range(2), deeper)}
        return sum(
            float(others[name][i, j] * weights[name][row, column])
            for name, (order, columns) in rows.items()
            for i, row in enumerate(order)
            for j, column in enumerate(columns)
        )

    best = similarity(*found)
    assert best > similarity(range(4), range(5))
    assert best >= max(similarity(list(order), found[1]) for order in permutations(range(4))) - 1e-6
    assert best >= max(similarity(found[0], list(order)) for order in permutations(range(5))) - 1e-6
