"""Wide residual networks for small images (Zagoruyko & Komodakis 2016), with normalisation before each convolution."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F

from ersparse.models.resnet import conv


class WideBlock(nn.Module):
    """Two 3x3 convolutions after normalisation and ReLU; where the shape changes, a 1x1 convolution is the shortcut."""

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(n_in), conv(n_in, n_out, 3, stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(n_out), conv(n_out, n_out, 3)
        self.shortcut = conv(n_in, n_out, 1, stride) if n_in != n_out or stride != 1 else None

    def forward(self, x: Tensor) -> Tensor:
        """Compute the output [B, n_out, H / stride, W / stride] of x [B, n_in, H, W]."""
        activated = F.relu(self.bn1(x))
        y: Tensor = self.conv2(F.relu(self.bn2(self.conv1(activated))))
        return y + (x if self.shortcut is None else self.shortcut(activated))


class WideResNet(nn.Module):
    """A 3x3 stem, three stages of wide blocks, global average pooling, and a linear classifier.

    Args:
        num_classes: number of outputs.
        channels: channels of an input image.
        blocks: number of blocks of each stage; the depth is 6 * blocks + 4.
        widths: channels of the stem and of each stage.
    """

    shrinks_by = 4

    def __init__(self, num_classes: int, channels: int, blocks: int, widths: tuple[int, int, int, int]) -> None:
        super().__init__()
        self.conv1 = conv(channels, widths[0], 3)
        stages = []
        for number, (n_in, n_out) in enumerate(pairwise(widths)):
            first = WideBlock(n_in, n_out, 2 if number else 1)
            stages.append(nn.Sequential(first, *(WideBlock(n_out, n_out, 1) for _ in range(blocks - 1))))
        self.stages = nn.Sequential(*stages)
        self.bn = nn.BatchNorm2d(widths[-1])
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.classifier = nn.Linear(widths[-1], num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Compute logits [B, num_classes] of images [B, channels, side, side]."""
        logits: Tensor = self.classifier(self.pool(F.relu(self.bn(self.stages(self.conv1(x))))))
        return logits


def wrn28(num_classes: int, channels: int = 3, width: float = 1.0, widen: int = 10) -> WideResNet:
    """Build WRN-28.

    Args:
        num_classes: number of outputs.
        channels: channels of an input image.
        width: factor on the number of channels of every hidden layer, the stem included.
        widen: the factor k of WRN-28-k on the channels 16, 32 and 64 of the stages, the stem excluded.
    """
    stem, *stages = (max(1, round(width * channels)) for channels in (16, 16 * widen, 32 * widen, 64 * widen))
    return WideResNet(num_classes, channels, 4, (stem, stages[0], stages[1], stages[2]))
