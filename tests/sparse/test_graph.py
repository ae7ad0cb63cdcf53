"""Reachability against automatic differentiation: a weight is on a path where it moves the output."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ersparse import models
from ersparse.sparse import graph as G
from ersparse.sparse.layers import prunable_layers, prunable_modules
from ersparse.sparse.mask import attach, density_of


def linearised(network: nn.Module) -> nn.Module:
    """Without biases, normalisation and maxima: a positive linear function of the input for positive weights."""
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, nn.Identity())
            elif isinstance(child, nn.MaxPool2d):
                setattr(module, name, nn.AvgPool2d(2))
    return network.double()


@pytest.mark.parametrize("name", models.__all__)
@pytest.mark.parametrize("density", [0.02, 0.1, 0.3])
def test_agrees_with_gradients(name, density):
    """Whole kernels are kept or removed, and no map is a single pixel, so that positions play no part."""
    network = linearised(getattr(models, name)(5, channels=2, width=0.25))
    layers = prunable_layers(network)
    random = torch.Generator().manual_seed(int(density * 100))
    masks = {
        layer.name: (torch.rand(layer.shape[:2] + (1,) * (len(layer.shape) - 2), generator=random) < density).expand(
            layer.shape
        )
        for layer in layers
    }
    steps = G.trace(network)
    with torch.no_grad():
        for module in prunable_modules(network).values():
            module.weight.fill_(1 / module.weight[0].numel())
    attach(network, masks)
    network(torch.ones(1, 2, 32, 32).double()).sum().backward()
    live = G.on_paths(masks, layers, steps)
    for layer, module in zip(layers, prunable_modules(network).values(), strict=True):
        assert live[layer.name].equal((module.weight.grad != 0) & masks[layer.name]), layer.name
    assert G.effective_density(masks, layers, steps) == density_of(live)


def test_worked_by_hand():
    """Two inputs, three hidden, one output. Hidden 0 has no input, hidden 2 no output: only 1 -> 0 counts."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    masks = {
        "1.weight": torch.tensor([[0, 0], [0, 1], [1, 0]]).bool(),
        "3.weight": torch.tensor([[1, 1, 0]]).bool(),
    }
    layers = prunable_layers(network)
    live = G.on_paths(masks, layers, G.trace(network))
    assert live["1.weight"].int().tolist() == [[0, 0], [0, 1], [0, 0]]
    assert live["3.weight"].int().tolist() == [[0, 1, 0]]
    assert G.effective_density(masks, layers, G.trace(network)) == 2 / 9


def test_a_shortcut_carries_what_the_block_does_not():
    network = models.resnet20(10)
    layers = prunable_layers(network)
    masks = {layer.name: torch.ones(layer.shape, dtype=torch.bool) for layer in layers}
    masks["stages.0.0.conv1.weight"][:] = False
    live = G.on_paths(masks, layers, G.trace(network))
    assert not live["stages.0.0.conv2.weight"].any(), "nothing reaches it"
    assert live["stages.0.1.conv1.weight"].all(), "the identity goes past"


def test_grouped_and_flattened():
    class Grouped(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(4, 4, 3, groups=2, padding=1), nn.Linear(4 * 9, 1)

        def forward(self, x):
            return self.b(F.relu(self.a(x)).flatten(1))

    network = Grouped()
    layers = prunable_layers(network)
    masks = {layer.name: torch.ones(layer.shape, dtype=torch.bool) for layer in layers}
    masks["a.weight"][2:] = False  # the second group is cut
    live = G.on_paths(masks, layers, G.trace(network))
    assert live["b.weight"].reshape(4, 9).any(1).tolist() == [True, True, False, False]
    masks["b.weight"][:, :9] = False  # and channel 0 is not read
    live = G.on_paths(masks, layers, G.trace(network))
    assert live["a.weight"].flatten(1).any(1).tolist() == [False, True, False, False]


def test_concatenated_and_used_twice():
    """One layer twice, its results side by side; a part of them is not read."""

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.shared, self.last = nn.Linear(2, 3), nn.Linear(3, 3), nn.Linear(6, 1)

        def forward(self, x):
            a = self.shared(self.first(x))
            return self.last(torch.cat((a, self.shared(F.gelu(a))), dim=1))

    network = Twice()
    layers = prunable_layers(network)
    masks = {layer.name: torch.ones(layer.shape, dtype=torch.bool) for layer in layers}
    masks["shared.weight"] = torch.eye(3).bool()
    masks["last.weight"] = torch.tensor([[1, 0, 0, 0, 1, 0]]).bool()  # channel 0 of the first, 1 of the second
    masks["first.weight"][1] = False
    live = G.on_paths(masks, layers, G.trace(network))
    assert live["last.weight"].int().tolist() == [[1, 0, 0, 0, 0, 0]], "nothing comes through channel 1"
    assert live["shared.weight"].int().tolist() == [[1, 0, 0], [0, 0, 0], [0, 0, 0]]
    assert live["first.weight"].any(1).tolist() == [True, False, False]


@pytest.mark.parametrize(
    "flatten",
    [
        lambda x: x.view(x.size(0), -1),
        lambda x: x.view(-1, 18),
        lambda x: x.reshape((x.shape[0], -1)),
        lambda x: torch.flatten(x, 1),
        lambda x: x.flatten(start_dim=1),
    ],
)
def test_all_the_ways_to_flatten(flatten):
    class Flat(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(1, 2, 1), nn.Linear(18, 1)

        def forward(self, x):
            return self.b(flatten(self.a(x)))

    layers = prunable_layers(Flat())
    masks = {layer.name: torch.ones(layer.shape, dtype=torch.bool) for layer in layers}
    masks["b.weight"][:, 9:] = False
    assert G.on_paths(masks, layers, G.trace(Flat()))["a.weight"].flatten().tolist() == [True, False]


def test_what_cannot_be_followed_is_named():
    class Product(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(2, 2), nn.Linear(2, 2)

        def forward(self, x):
            return self.a(x) * self.b(x)

    with pytest.raises(G.GraphError, match="flow=none"):
        G.trace(Product())
