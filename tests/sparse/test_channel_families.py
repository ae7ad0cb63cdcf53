"""Reachability in families of networks, and in blocks of one's own, against automatic differentiation."""

import pytest
import torch
from positive_network import compare, linear, network_of
from torch import nn
from torch.nn import functional as F
from torchvision import models
from torchvision.models.convnext import CNBlockConfig, ConvNeXt
from torchvision.models.efficientnet import EfficientNet, FusedMBConvConfig, MBConvConfig
from torchvision.models.regnet import BlockParams, RegNet

from ersparse import models as own_models
from ersparse.sparse.channel_graph import trace
from ersparse.sparse.layers import prunable_layers


def efficientnet():
    wide = [FusedMBConvConfig(2, 3, 1, 8, 8, 1), MBConvConfig(4, 3, 2, 8, 12, 2, 1, 1)]
    return EfficientNet([*wide, MBConvConfig(4, 5, 1, 12, 16, 1, 1, 1)], 0.2, num_classes=5, last_channel=20)


FAMILIES = {
    "mlp": lambda: own_models.mlp(5, channels=3, width=0.1, image_size=32),
    "resnet50_imagenet": lambda: own_models.resnet50_imagenet(5, width=0.1),
    "mobilenet_v2": lambda: models.mobilenet_v2(num_classes=5, width_mult=0.1),
    "mobilenet_v3": lambda: models.mobilenet_v3_small(num_classes=5, width_mult=0.1),
    "efficientnet": efficientnet,
    "mnasnet": lambda: models.MNASNet(0.1, num_classes=5),
    "shufflenet": lambda: models.ShuffleNetV2([1, 2, 1], [8, 12, 16, 20, 24], num_classes=5),
    "regnet": lambda: RegNet(BlockParams([1, 2], [8, 16], [4, 4], [1.0, 1.0], [2, 2], 0.25), 5, stem_width=8),
    "densenet": lambda: models.DenseNet(4, (2, 2), 8, num_classes=5),
    "resnext": lambda: models.ResNet(models.resnet.Bottleneck, [1, 1, 1, 1], 5, groups=4, width_per_group=2),
    "convnext": lambda: ConvNeXt([CNBlockConfig(8, 12, 2), CNBlockConfig(12, None, 1)], num_classes=5),
}


def conv(n_in, n_out, kernel=1, **options):
    return nn.Conv2d(n_in, n_out, kernel, bias=False, **options)


def squeeze_and_excitation(self, x):
    h = self.a(x)
    gate = torch.sigmoid(self.up(F.relu(self.down(h.mean((2, 3))))))
    return self.b(h * gate[:, :, None, None])


def shuffled(self, x):
    h = self.a(x)
    b, c, height, width = h.shape
    h = h.view(b, 2, c // 2, height, width).transpose(1, 2).reshape(b, c, height, width)
    return self.b(self.g(h))


def split_and_joined(self, x):
    first, second = self.a(x).split([2, 6], 1)
    return self.b(torch.cat([second, self.c(first), first], 1))


def recalibrated(self, x):
    h = self.a(x)
    return self.b(h * self.s(h) + h.amax((2, 3), keepdim=True))


def modulated(self, x):
    """Scale and shift, as in adaptive normalisation."""
    h = self.a(x)
    scale, shift = self.m(x.mean((2, 3))).chunk(2, dim=-1)
    return self.b(h * (1 + scale[..., None, None]) + shift[..., None, None])


BLOCKS = {
    "SE block": lambda: network_of(
        squeeze_and_excitation, a=conv(3, 8), down=linear(8, 4, True), up=linear(4, 8, True), b=conv(8, 5)
    ),
    "SE block without biases": lambda: network_of(
        squeeze_and_excitation, a=conv(3, 8), down=linear(8, 4), up=linear(4, 8), b=conv(8, 5)
    ),
    "gate of one channel": lambda: network_of(recalibrated, a=conv(3, 8), s=conv(8, 1), b=conv(8, 5)),
    "product without biases": lambda: network_of(
        lambda s, x: s.c(s.a(x) * s.b(x)), a=conv(3, 8), b=conv(3, 8), c=conv(8, 5)
    ),
    "product with a bias": lambda: network_of(
        lambda s, x: s.c(s.a(x) * s.b(x)), a=conv(3, 8), b=nn.Conv2d(3, 8, 1), c=conv(8, 5)
    ),
    "product of products": lambda: network_of(
        lambda s, x: s.c(s.a(x) * s.b(x) * s.a(x) ** 2), a=conv(3, 8), b=conv(3, 8), c=conv(8, 5)
    ),
    "gated linear unit": lambda: network_of(lambda s, x: s.b(F.glu(s.a(x), 1)), a=conv(3, 16), b=conv(8, 5)),
    "SwiGLU": lambda: network_of(
        lambda s, x: (lambda h: s.d(F.silu(s.a(h)) * s.b(h)))(s.c(x)),
        a=conv(4, 8), b=conv(4, 8), c=conv(3, 4), d=conv(8, 5),
    ),
    "modulation": lambda: network_of(modulated, a=conv(3, 8), m=linear(3, 16), b=conv(8, 5)),
    "channel shuffle": lambda: network_of(shuffled, a=conv(3, 8), g=conv(8, 8, groups=2), b=conv(8, 5)),
    "nn.ChannelShuffle": lambda: nn.Sequential(conv(3, 8), nn.ChannelShuffle(4), conv(8, 8, groups=4), conv(8, 5)),
    "depthwise separable": lambda: nn.Sequential(
        conv(3, 8), conv(8, 8, 3, groups=8, padding=1), nn.ReLU6(), conv(8, 5)
    ),
    "split and cat": lambda: network_of(split_and_joined, a=conv(3, 8), c=conv(2, 3), b=conv(11, 5)),
    "pixel shuffle": lambda: nn.Sequential(
        conv(3, 16), nn.PixelShuffle(2), conv(4, 8), nn.PixelUnshuffle(2), conv(32, 5)
    ),
    "layer norm of an image": lambda: network_of(
        lambda s, x: s.b(s.n(s.a(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)),
        a=conv(3, 8), n=nn.LayerNorm(8), b=conv(8, 5),
    ),
    "group norm": lambda: nn.Sequential(conv(3, 8), nn.GroupNorm(2, 8), nn.SiLU(), conv(8, 5)),
    "pad and upsample": lambda: network_of(
        lambda s, x: s.b(F.interpolate(F.pad(s.a(x), (1, 1, 1, 1)), scale_factor=2)), a=conv(3, 8), b=conv(8, 5)
    ),
    "pad of channels": lambda: network_of(
        lambda s, x: s.b(F.pad(s.a(x)[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2)) + s.c(x)),
        a=conv(3, 4), c=conv(3, 8, 2, stride=2), b=conv(8, 5),
    ),
    "broadcast sum": lambda: network_of(lambda s, x: s.c(s.a(x) + s.b(x)), a=conv(3, 8), b=conv(3, 1), c=conv(8, 5)),
    "mean of channels": lambda: network_of(lambda s, x: s.b(s.a(x).mean(1, keepdim=True)), a=conv(3, 4), b=conv(1, 8)),
    "mean of rows": lambda: network_of(lambda s, x: s.f(s.a(x).mean(2)), a=conv(3, 4), f=linear(4, 5)),
    "pixels in the batch": lambda: network_of(lambda s, x: s.f(s.a(x).view(-1, 4)), a=conv(3, 8), f=linear(4, 5)),
    "linear on the width": lambda: network_of(lambda s, x: s.f(s.a(x)), a=conv(3, 8), f=linear(4, 5)),
    "input beside a layer": lambda: network_of(lambda s, x: s.b(torch.cat([x, s.a(x)], 1)), a=conv(3, 3), b=conv(6, 4)),
    "joined above each other": lambda: network_of(
        lambda s, x: s.b(torch.cat([s.a(x), s.c(x)], 2)), a=conv(3, 4), c=conv(3, 4), b=conv(4, 6)
    ),
    "a matrix of constants": lambda: network_of(
        lambda s, x: s.b((s.a(x).flatten(2) @ torch.ones(16, 16).double()).unflatten(2, (4, 4))),
        a=conv(3, 8), b=conv(8, 5),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BLOCKS)
def test_paths_of_blocks_match_gradients_of_a_positive_network(name):
    shares = [
        compare(BLOCKS[name](), torch.rand(2, 3, 4, 4).double() + 0.1, density, seed, (2, 3, 4, 4))
        for seed, density in enumerate((0.15, 0.3, 0.3, 0.5))
    ]
    assert sum(shares) > 0


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("density", [0.1, 0.3])
def test_paths_of_families_match_gradients_of_a_positive_network(name, density):
    network = FAMILIES[name]()
    compare(network, torch.rand(1, 3, 32, 32).double() + 0.1, density, seed=1)


TORCHVISION = [
    "mobilenet_v2", "mobilenet_v3_small", "efficientnet_b0", "efficientnet_v2_s", "mnasnet0_5", "shufflenet_v2_x0_5",
    "regnet_x_400mf", "regnet_y_400mf", "densenet121", "googlenet", "inception_v3", "resnext50_32x4d", "convnext_tiny",
    "vit_b_16", "swin_t", "swin_v2_t", "maxvit_t", "squeezenet1_0", "alexnet", "vgg11_bn",
]  # fmt: skip
TIMM = [
    "vit_tiny_patch16_224", "deit_small_patch16_224", "mobilenetv3_small_050", "efficientnet_b0", "ghostnet_050",
    "convnextv2_atto", "mobilevit_xxs", "seresnet50", "levit_128s", "regnety_002", "crossvit_tiny_240",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", [*TORCHVISION, *[f"timm {name}" for name in TIMM]])
def test_published_networks_are_followed_as_a_whole(name):
    if name.startswith("timm "):
        network = pytest.importorskip("timm").create_model(name.removeprefix("timm "))
    else:
        own = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
        with torch.device("cpu" if name.startswith("regnet") else "meta"):
            network = models.get_model(name, weights=None, **own)
    followed = {op.layer for op in trace(network) if op.kind == "layer"}
    assert followed >= {layer.name for layer in prunable_layers(network)}
