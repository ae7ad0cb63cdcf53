"""Twenty networks of torchvision, timm and PyTorch's layers, narrow ones, and the table of docs/networks.md.

python -m benchmarks.networks     prints the table
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.models.convnext import CNBlockConfig, ConvNeXt
from torchvision.models.efficientnet import EfficientNet, FusedMBConvConfig, MBConvConfig
from torchvision.models.regnet import BlockParams, RegNet

from ersparse.sparse.channel_graph import GraphError, trace
from ersparse.sparse.layers import prunable_layers, unpruned_matrices

IMAGE = (2, 3, 32, 32)


class LanguageModel(nn.Module):
    """Embedding, LSTM and output layer, [B, T] token numbers -> [B, T, words]."""

    def __init__(self, words: int = 60, width: int = 32) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(words, width), nn.Linear(width, words)
        self.lstm = nn.LSTM(width, width, num_layers=2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of the next token at each position."""
        states, _ = self.lstm(self.embedding(x))
        logits: Tensor = self.head(states)
        return logits


class UNet(nn.Module):
    """A U-Net of two scales, whose decoder has transposed convolutions, [B, 3, H, W] -> [B, 5, H, W]."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU())
        self.middle = nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(width, 2 * width, 3, padding=1), nn.ReLU())
        self.up = nn.ConvTranspose2d(2 * width, width, 2, 2)
        self.out = nn.Conv2d(2 * width, 5, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of each pixel."""
        fine = self.down(x)
        logits: Tensor = self.out(torch.cat([fine, self.up(self.middle(fine))], 1))
        return logits


class AttentionViT(nn.Module):
    """A vision transformer on `nn.TransformerEncoderLayer`, that is, on `nn.MultiheadAttention`."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.patches, self.head = nn.Conv2d(3, width, 8, 8), nn.Linear(width, 5)
        self.positions = nn.Parameter(torch.zeros(1, 16, width))
        self.encoder = nn.TransformerEncoderLayer(width, 4, 2 * width, batch_first=True, norm_first=True)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits [B, 5] of images [B, 3, 32, 32]."""
        tokens = self.patches(x).flatten(2).transpose(1, 2) + self.positions
        logits: Tensor = self.head(self.encoder(tokens).mean(1))
        return logits


def efficientnet() -> nn.Module:
    """Return a narrow EfficientNet of torchvision."""
    wide = [FusedMBConvConfig(2, 3, 1, 8, 8, 1), MBConvConfig(4, 3, 2, 8, 12, 2, 1, 1)]
    return EfficientNet([*wide, MBConvConfig(4, 5, 1, 12, 16, 1, 1, 1)], 0.2, num_classes=5, last_channel=20)


def of_timm(name: str, **arguments: object) -> Callable[[], nn.Module]:
    """Return the constructor of a network of timm for five classes."""

    def build() -> nn.Module:
        import timm

        network: nn.Module = timm.create_model(name, num_classes=5, **arguments)
        return network

    return build


NARROW = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2}
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "torchvision mobilenet_v2": lambda: models.mobilenet_v2(num_classes=5, width_mult=0.2),
    "torchvision mobilenet_v3_small": lambda: models.mobilenet_v3_small(num_classes=5, width_mult=0.2),
    "torchvision EfficientNet": efficientnet,
    "torchvision MNASNet": lambda: models.MNASNet(0.2, num_classes=5),
    "torchvision ShuffleNetV2": lambda: models.ShuffleNetV2([1, 2, 1], [8, 12, 16, 20, 24], num_classes=5),
    "torchvision RegNet": lambda: RegNet(
        BlockParams([1, 2], [8, 16], [4, 4], [1.0, 1.0], [2, 2], 0.25), 5, stem_width=8
    ),
    "torchvision DenseNet": lambda: models.DenseNet(4, (2, 2), 8, num_classes=5),
    "torchvision ResNeXt": lambda: models.ResNet(
        models.resnet.Bottleneck, [1, 1, 1, 1], 5, groups=4, width_per_group=2
    ),
    "torchvision ConvNeXt": lambda: ConvNeXt([CNBlockConfig(8, 12, 2), CNBlockConfig(12, None, 1)], num_classes=5),
    "torchvision SqueezeNet": lambda: models.squeezenet1_1(num_classes=5),
    "torchvision VisionTransformer": lambda: models.VisionTransformer(32, 8, 2, 2, 32, 64, num_classes=5),
    "torchvision SwinTransformer": lambda: models.SwinTransformer([2, 2], 16, [1, 1], [2, 2], [4, 4], num_classes=5),
    "timm deit_tiny": of_timm("deit_tiny_patch16_224", num_heads=2, **NARROW),
    "timm mixer_s32": of_timm("mixer_s32_224", img_size=32),
    "timm resnet10t": of_timm("resnet10t"),
    "timm tf_efficientnetv2_b0": of_timm("tf_efficientnetv2_b0"),
    "timm resnetv2_50x1_bit": of_timm("resnetv2_50x1_bit"),
    "LSTM language model": LanguageModel,
    "U-Net": UNet,
    "ViT with nn.MultiheadAttention": AttentionViT,
}  # fmt: skip


class Summary(NamedTuple):
    """What the table says of a network.

    Attributes:
        share: prunable weights over all weights of matrices.
        flow: "followed", or what the trace says.
    """

    share: float
    flow: str


def example(name: str) -> Tensor:
    """Return an input of a network of `NETWORKS`."""
    return torch.arange(20).reshape(2, 10) if name == "LSTM language model" else torch.randn(IMAGE)


def summarise(network: nn.Module, name: str) -> Summary:
    """Return the prunable share of a network, and whether flow can be followed through it."""
    layers = prunable_layers(network)
    pruned = sum(layer.size for layer in layers)
    dense = sum(unpruned_matrices(network, [layer.name for layer in layers]).values())
    try:
        trace(network)
        flow = "followed"
    except GraphError as error:
        flow = str(error).removesuffix("; flow=none needs no channel graph")
    return Summary(pruned / (pruned + dense), flow)


def table() -> str:
    """Return the table of docs/networks.md."""
    lines = ["| network | prunable | flow |", "|---|---|---|"]
    for name, build in NETWORKS.items():
        share, flow = summarise(build(), name)
        lines.append(f"| {name} | {100 * share:.1f} % | {flow} |")
    return "\n".join(lines)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    print(table())
