"""Operations that move or combine elements within a channel, each in one, two and three dimensions."""

import pytest
import torch
from torch import nn

from ersparse.sparse import reachability as G
from ersparse.sparse.channel_graph import GraphError, trace
from ersparse.sparse.channel_inputs import BATCH, Inputs
from ersparse.sparse.channel_mixing import POOLS
from ersparse.sparse.channel_movement import MOVED_AS_FLOATS
from ersparse.sparse.layers import prunable_layers

CONV = {d: getattr(nn, f"Conv{d}d") for d in (1, 2, 3)}


def full_masks(layers):
    return {layer.name: torch.ones(layer.shape, dtype=torch.bool) for layer in layers}


class First(nn.Module):
    """The first of several results."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, x):
        return self.module(x)[0]


def within_channels(d):
    """Modules that keep the channels apart."""
    for kind in ("ReflectionPad", "ReplicationPad", "ZeroPad"):
        yield getattr(nn, f"{kind}{d}d")(1)
    yield getattr(nn, f"AvgPool{d}d")(2)
    yield getattr(nn, f"AdaptiveAvgPool{d}d")(3)
    yield getattr(nn, f"AdaptiveMaxPool{d}d")(3)
    yield getattr(nn, f"MaxPool{d}d")(2)
    yield First(getattr(nn, f"MaxPool{d}d")(2, return_indices=True))
    for mode in {1: ["linear"], 2: ["bilinear", "bicubic"], 3: ["trilinear"]}[d] + ["nearest", "nearest-exact"]:
        yield nn.Upsample(scale_factor=2, mode=mode)


@pytest.mark.parametrize("d", CONV)
def test_operations_within_channels_keep_them_apart(d):
    for module in within_channels(d):
        network = nn.Sequential(CONV[d](3, 4, 1), module, CONV[d](4, 5, 1))
        layers = prunable_layers(network)
        masks = full_masks(layers)
        masks["0.weight"][1] = False
        live = G.on_paths(masks, layers, trace(network))
        assert live["0.weight"].equal(masks["0.weight"]), module
        assert live["2.weight"].flatten(1)[0].tolist() == [True, False, True, True], module


def test_patches_of_images_have_the_channels_of_their_pixels():
    """`im2col` puts the pixels of each channel side by side: four rows for each of three channels."""
    network = nn.Sequential(nn.Conv2d(2, 3, 1), nn.Unfold(2), nn.Conv1d(12, 5, 1))
    layers = prunable_layers(network)
    masks = full_masks(layers)
    masks["0.weight"][1] = False
    live = G.on_paths(masks, layers, trace(network))
    assert live["2.weight"][0, :, 0].tolist() == [True] * 4 + [False] * 4 + [True] * 4


def test_names_of_operations_are_those_of_pytorch():
    assert [name for name in POOLS | MOVED_AS_FLOATS if not hasattr(torch.ops.aten, name)] == []


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_a_batch_of_weights_acts_as_groups(batch):
    class Batched(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 2 * batch), nn.Parameter(torch.ones(batch, 2, 3))
            self.c = nn.Linear(3, 5)

        def forward(self, x):
            h = self.a(x).view(-1, batch, 2).transpose(0, 1)
            return self.c(torch.bmm(h, self.b).transpose(0, 1))

    network = Batched()
    layers = [layer for layer in prunable_layers(network) if layer.name != "b"]
    steps = {step.layer: step for step in trace(network)}
    masks = full_masks(layers)
    masks["a.weight"][:2] = False  # what the first of the batch reads
    live = G.on_paths(masks, layers, trace(network))
    assert live["c.weight"].all() == (batch > 1) and live["a.weight"][2:].all(), steps


def test_a_product_with_a_sum_of_itself_and_a_constant_vanishes_with_it():
    """x (x + 1) is zero where x is, so that nothing passes on from there."""

    class Squared(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(3, 4, bias=False), nn.Linear(3, 4, bias=False), nn.Linear(4, 2)

        def forward(self, x):
            h = self.a(x)
            return self.c(h * (h + 1) * self.b(x))

    network = Squared()
    layers = prunable_layers(network)
    masks = full_masks(layers)
    masks["a.weight"][1] = False
    live = G.on_paths(masks, layers, trace(network))
    assert live["b.weight"].any(1).tolist() == live["c.weight"].any(0).tolist() == [True, False, True, True]


def test_an_index_that_depends_on_the_input_is_named():
    class Chosen(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(2, 3)

        def forward(self, x):
            return self.b(self.a(x)[:, self.a(x)[0, :2].long()])

    with pytest.raises(GraphError, match="index by an index that depends on the input"):
        trace(Chosen())


@pytest.mark.parametrize("size", [
    (1024,), (128,), (16000,), (8,), (224, 224), (32, 32), (28, 28), (299, 299), (64, 64), (96, 96), (4, 4),
    (16, 112, 112), (32, 32, 32), (8, 32, 32), (64, 64, 64), (8, 8, 8),
], ids=str)  # fmt: skip
def test_networks_that_take_one_size_only_are_followed(size):
    class Viewed(nn.Module):
        def forward(self, x):
            return x.view(-1, torch.Size(size).numel())

    linear = nn.Linear(torch.Size(size).numel(), 2, device="meta")
    steps = trace(nn.Sequential(CONV[len(size)](1, 1, 1), Viewed(), linear))
    assert [step.layer for step in steps] == ["", "0.weight", "2.weight", ""]


def test_inputs_fit_that_keep_the_batch():
    inputs = Inputs((torch.empty(BATCH, 3),))
    assert inputs.accepts([torch.empty(BATCH, 5)]) and inputs.accepts([torch.tensor(1.0)])
    assert inputs.accepts([torch.empty(7, 5), torch.empty(BATCH)]) and not inputs.accepts([torch.empty(7, 5)])
    assert inputs._replace(is_known=True).accepts([torch.empty(7, 5)])
