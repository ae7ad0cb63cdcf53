"""Network architectures against published parameter counts, and their initialisation."""

import pytest
import torch

from ersparse import models
from ersparse.sparse.layers import prunable_layers

COUNTS = [  # model, classes, parameters, prunable weights, layers
    ("vgg16", 10, 14_724_042, 14_715_584, 14),
    ("vgg19", 100, 20_081_188, 20_070_080, 17),
    ("vgg19", 200, 20_132_488, 20_121_280, 17),
    ("resnet18", 10, 11_173_952, 11_164_352, 21),
    ("resnet50", 100, 23_705_152, 23_652_032, 54),
    ("resnet20", 200, 284_824, 283_056, 22),
    ("resnet110", 100, 1_736_564, 1_728_176, 112),
]


@pytest.mark.parametrize("name, classes, parameters, prunable, layers", COUNTS)
def test_parameter_counts_match_the_literature(name, classes, parameters, prunable, layers):
    with torch.device("meta"):
        network = getattr(models, name)(classes)
    found = prunable_layers(network)
    assert sum(p.numel() for p in network.parameters()) == parameters
    assert sum(layer.size for layer in found) == prunable
    assert len(found) == layers


@pytest.mark.parametrize("name", models.__all__)
@pytest.mark.parametrize("side, channels", [(16, 1), (32, 3), (64, 4)])
def test_output_shape_for_any_image_size(name, side, channels):
    network = getattr(models, name)(7, channels=channels, width=0.25).eval()
    assert network(torch.randn(1, channels, side, side)).shape == (1, 7)


@pytest.mark.parametrize("name", models.__all__)
def test_shrinks_by_is_the_smallest_image_side(name):
    """At this side exactly one pixel is left before global average pooling."""
    network = getattr(models, name)(7, width=0.25).eval()
    sides = []
    pool = next(m for m in network.modules() if isinstance(m, torch.nn.AdaptiveAvgPool2d))
    pool.register_forward_pre_hook(lambda module, inputs: sides.append(inputs[0].shape[-1]))
    network(torch.randn(1, 3, network.shrinks_by, network.shrinks_by))
    assert sides == [1]


def test_width_scales_hidden_channels_only():
    narrow, wide = (prunable_layers(models.vgg16(10, width=w)) for w in (1, 2))
    assert wide[0].shape == (128, 3, 3, 3)
    assert wide[-1].shape == (10, 1024)
    assert [layer.n_out for layer in wide[:-1]] == [2 * layer.n_out for layer in narrow[:-1]]


def test_shortcut_follows_the_last_convolution_of_its_block():
    names = [layer.name for layer in prunable_layers(models.resnet18(10))]
    position = names.index("stages.1.0.shortcut.0.weight")
    assert names[position - 1] == "stages.1.0.conv2.weight"


def test_initial_weights_have_the_specified_standard_deviation():
    """Within 6 standard errors, std / sqrt(2n)."""
    torch.manual_seed(0)
    vgg, resnet = models.vgg16(10), models.resnet20(10)
    cases = [
        (vgg.features[3].weight, (2 / (64 * 9)) ** 0.5),
        (vgg.features[7].weight, (2 / (128 * 9)) ** 0.5),  # fan_out: 128 output channels
        (vgg.classifier.weight, 0.01),
        (resnet.stages[1][0].conv1.weight, (2 / (16 * 9)) ** 0.5),  # fan_in: 16 input channels
    ]
    for weight, std in cases:
        assert abs(weight.std().item() / std - 1) < 6 / (2 * weight.numel()) ** 0.5
