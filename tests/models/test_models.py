"""Network architectures against published parameter counts, and their initialisation."""

import json

import pytest
import torch
import torchvision

from ersparse import models
from ersparse.errors import UserError
from ersparse.models.build import NetworkSpec
from ersparse.models.signature import keywords
from ersparse.sparse.layers import prunable_layers

COUNTS = [  # model, classes, parameters, prunable weights, layers
    ("vgg16", 10, 14_724_042, 14_715_584, 14),
    ("vgg19", 100, 20_081_188, 20_070_080, 17),
    ("vgg19", 200, 20_132_488, 20_121_280, 17),
    ("resnet18", 10, 11_173_952, 11_164_352, 21),
    ("resnet50", 100, 23_705_152, 23_652_032, 54),
    ("resnet20", 200, 284_824, 283_056, 22),
    ("resnet110", 100, 1_736_564, 1_728_176, 112),
    ("resnet50_imagenet", 1000, 25_557_032, 25_502_912, 54),  # torchvision's resnet50
    ("wrn28", 10, 36_479_194, 36_461_232, 29),  # WRN-28-10
    ("vit_tiny", 1000, 5_717_416, 5_647_872, 50),  # DeiT-Ti and DeiT-S at 224 pixels, patches of 16
    ("deit_small", 1000, 22_050_664, 21_912_576, 50),
    ("mlp", 10, 266_610, 266_200, 3),  # LeNet-300-100 on MNIST
]
CONVOLUTIONAL = [name for name in models.__all__ if name.startswith(("resnet", "vgg", "wrn"))]
BY_NAME = {"timm_network": {"model_name": "test_vit"}, "torchvision_network": {"name": "shufflenet_v2_x0_5"}}


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
    own, width = BY_NAME.get(name, {}), 1.0 if name in BY_NAME else 0.25
    spec = NetworkSpec(f"ersparse.models.{name}", 7, channels, width, json.dumps(own), side)
    assert spec.build().eval()(torch.randn(1, channels, side, side)).shape == (1, 7)


@pytest.mark.parametrize("name", CONVOLUTIONAL)
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


@pytest.mark.parametrize(
    "side, given, patch", [(16, None, 2), (28, None, 2), (32, None, 4), (64, None, 8), (224, None, 16), (32, 8, 8)]
)
def test_patches_follow_from_the_size_of_the_images(side, given, patch):
    with torch.device("meta"):
        network = models.vit_tiny(10, image_size=side, patch=given)
    assert network.patches.kernel_size == (patch, patch)
    assert network.positions.shape == (1, 1 + (side // patch) ** 2, 192)


@pytest.mark.parametrize("name", ["vit_tiny", "mlp"])
def test_images_need_not_be_square(name):
    network = getattr(models, name)(10, channels=1, width=0.25, image_size=(8, 12))
    assert network(torch.randn(2, 1, 8, 12)).shape == (2, 10)


def test_a_patch_that_does_not_divide_the_image_is_refused():
    with pytest.raises(UserError, match=r"^model.patch=5: must divide dataset.image_size=\[32, 32\]$"):
        models.vit_tiny(10, image_size=32, patch=5)


def test_attention_is_that_of_pytorch():
    """`nn.MultiheadAttention` has the rows of queries, keys and values in the same order."""
    from ersparse.models.vit import Attention

    ours, theirs, x = Attention(12, 3), torch.nn.MultiheadAttention(12, 3, batch_first=True), torch.randn(2, 5, 12)
    theirs.load_state_dict(
        {
            "in_proj_weight": ours.qkv.weight,
            "in_proj_bias": ours.qkv.bias,
            "out_proj.weight": ours.projection.weight,
            "out_proj.bias": ours.projection.bias,
        }
    )
    torch.testing.assert_close(ours(x), theirs(x, x, x, need_weights=False)[0])


def test_resnet50_for_large_images_is_that_of_torchvision():
    """With its tensors in the order of the modules, in which only the shortcuts of a block stand elsewhere."""
    ours, theirs = models.resnet50_imagenet(10, width=1.0).eval(), torchvision.models.resnet50(num_classes=10).eval()
    names = {"fc": "classifier", "downsample": "shortcut", "layer1": "stages.0", "layer2": "stages.1",
             "layer3": "stages.2", "layer4": "stages.3"}  # fmt: skip
    state = {
        ".".join(names.get(part, part) for part in key.split(".")): value for key, value in theirs.state_dict().items()
    }
    ours.load_state_dict(state)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x))


def known(channels=1, side=32, width=1.0):
    return {"num_classes": 10, "channels": channels, "width": width, "image_size": side}


@pytest.mark.parametrize(
    "name, taken",
    [
        ("vit_b_16", {"num_classes": 10, "image_size": 32}),
        ("mobilenet_v2", {"num_classes": 10, "width_mult": 0.5}),
        ("swin_t", {"num_classes": 10}),
    ],
)
def test_functions_of_torchvision_take_what_their_class_takes(name, taken):
    width = taken.get("width_mult", 1.0)
    assert keywords(getattr(torchvision.models, name), known(width=width), {}) == taken


@pytest.mark.parametrize(
    "name, taken",
    [
        ("resnet10t", {"num_classes", "in_chans"}),  # its `channels` are those of layers
        ("vit_tiny_patch16_224", {"num_classes", "in_chans", "img_size"}),
    ],
)
def test_functions_of_timm_take_what_their_class_takes(name, taken):
    timm = pytest.importorskip("timm")
    assert set(keywords(timm.model_entrypoint(name), known(), {})) == taken


def test_torchvision_gets_a_first_convolution_for_grey_images():
    network = models.torchvision_network(10, channels=1, name="mobilenet_v2")
    first = network.features[0][0]
    assert first.weight.shape == (32, 1, 3, 3) and first.stride == (2, 2) and first.bias is None


@pytest.mark.parametrize(
    "library, args, message",
    [
        ("torchvision", {"name": "mobilenet_v9"}, "model.args.name=mobilenet_v9: must be a classifier of torchvision"),
        ("torchvision", {"name": "fasterrcnn_resnet50_fpn"}, "must be a classifier of torchvision, such as alexnet"),
        ("torchvision", {"name": "resnet18", "weights": "DEFAULT"}, "model.args.weights=DEFAULT: must be left out"),
        ("torchvision", {"name": "resnet18", "width": 2.0}, "model.args.name=resnet18: has no argument width"),
        ("timm", {"model_name": "resnet10t", "pretrained": True}, "model.args.pretrained=True: must be left out"),
        ("timm", {"model_name": "hf-hub:some/where"}, "model.args.model_name=hf-hub:some/where: timm"),
    ],
)
def test_what_libraries_cannot_build_is_refused(library, args, message):
    pytest.importorskip(library)
    with pytest.raises(UserError) as error:
        getattr(models, f"{library}_network")(10, **args)
    assert message in str(error.value) and "\n" not in str(error.value)
