"""Residual networks (He et al. 2016) with projection shortcuts: for small images with a 3x3 stem and no max pooling.

In every block the shortcut convolution is registered after the last convolution, which determines the order of the
prunable layers.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


def conv(n_in: int, n_out: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    """Return a convolution without bias, padded so that stride 1 keeps the image size."""
    return nn.Conv2d(n_in, n_out, kernel, stride, kernel // 2, bias=False)


class BasicBlock(nn.Module):
    """Residual block of two 3x3 convolutions."""

    expansion = 1

    def __init__(self, n_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(n_in, width, 3, stride), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = conv(width, width, 3), nn.BatchNorm2d(width)
        self.shortcut = shortcut(n_in, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the output [B, width * expansion, H / stride, W / stride] of x [B, n_in, H, W]."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return F.relu(y + self.shortcut(x))


class Bottleneck(nn.Module):
    """Residual block of a 1x1, a 3x3 and a 1x1 convolution, the last of which is four times as wide."""

    expansion = 4

    def __init__(self, n_in: int, width: int, stride: int) -> None:
        super().__init__()
        n_out = self.expansion * width
        self.conv1, self.bn1 = conv(n_in, width, 1), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = conv(width, width, 3, stride), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = conv(width, n_out, 1), nn.BatchNorm2d(n_out)
        self.shortcut = shortcut(n_in, n_out, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the output [B, width * expansion, H / stride, W / stride] of x [B, n_in, H, W]."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return F.relu(y + self.shortcut(x))


def shortcut(n_in: int, n_out: int, stride: int) -> nn.Module:
    """Return the identity, or a 1x1 projection where a block changes the shape."""
    if n_in == n_out and stride == 1:
        return nn.Identity()
    return nn.Sequential(conv(n_in, n_out, 1, stride), nn.BatchNorm2d(n_out))


class ResNet(nn.Module):
    """A stem, stages of residual blocks, global average pooling, and a linear classifier.

    Every stage after the first halves the image.

    Args:
        block: type of the residual blocks.
        depths: number of blocks of each stage.
        widths: channels of each stage before `width` is applied; a `Bottleneck` has four times as many at its end.
        num_classes: number of outputs.
        channels: channels of an input image.
        width: factor on `widths`.
        classifier_bias: whether the classifier has a bias.
        large_images: use the stem for ImageNet, a 7x7 convolution and max pooling, which both halve the image, in place
            of a 3x3 convolution.
    """

    def __init__(
        self,
        block: type[BasicBlock | Bottleneck],
        depths: tuple[int, ...],
        widths: tuple[int, ...],
        num_classes: int,
        channels: int,
        width: float,
        classifier_bias: bool,
        large_images: bool = False,
    ) -> None:
        super().__init__()
        self.shrinks_by = 2 ** (len(depths) - 1 + 2 * large_images)
        scaled = [max(1, round(unscaled * width)) for unscaled in widths]
        self.conv1 = conv(channels, scaled[0], 7, 2) if large_images else conv(channels, scaled[0], 3)
        self.bn1 = nn.BatchNorm2d(scaled[0])
        self.stem_pool = nn.MaxPool2d(3, 2, 1) if large_images else None
        stages: list[nn.Module] = []
        n_in = scaled[0]
        for number, (depth, stage_width) in enumerate(zip(depths, scaled, strict=True)):
            blocks = []
            for position in range(depth):
                blocks.append(block(n_in, stage_width, 2 if number and not position else 1))
                n_in = stage_width * block.expansion
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.Sequential(*stages)
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.classifier = nn.Linear(n_in, num_classes, bias=classifier_bias)

    def forward(self, x: Tensor) -> Tensor:
        """Compute logits [B, num_classes] of images [B, channels, side, side]."""
        x = F.relu(self.bn1(self.conv1(x)))
        if self.stem_pool is not None:
            x = self.stem_pool(x)
        logits: Tensor = self.classifier(self.pool(self.stages(x)))
        return logits


def resnet18(num_classes: int, channels: int = 3, width: float = 1.0) -> ResNet:
    """Build ResNet-18.

    Args:
        num_classes: number of outputs.
        channels: channels of an input image.
        width: factor on the number of channels of every hidden layer.
    """
    return ResNet(BasicBlock, (2, 2, 2, 2), (64, 128, 256, 512), num_classes, channels, width, classifier_bias=False)


def resnet50(num_classes: int, channels: int = 3, width: float = 1.0) -> ResNet:
    """Build ResNet-50.

    Args:
        num_classes: number of outputs.
        channels: channels of an input image.
        width: factor on the number of channels of every hidden layer.
    """
    return ResNet(Bottleneck, (3, 4, 6, 3), (64, 128, 256, 512), num_classes, channels, width, classifier_bias=False)


def resnet50_imagenet(num_classes: int, channels: int = 3, width: float = 1.0) -> ResNet:
    """Build ResNet-50 for large images: a 7x7 stem and max pooling, and the stride in the 3x3 convolutions.

    Args:
        num_classes: number of outputs.
        channels: channels of an input image.
        width: factor on the number of channels of every hidden layer.
    """
    depths, widths = (3, 4, 6, 3), (64, 128, 256, 512)
    return ResNet(Bottleneck, depths, widths, num_classes, channels, width, classifier_bias=True, large_images=True)


def resnet20(num_classes: int, channels: int = 3, width: float = 1.0) -> ResNet:
    """Build ResNet-20.

    Args:
        num_classes: number of outputs.
        channels: channels of an input image.
        width: factor on the number of channels of every hidden layer.
    """
    return kaiming(ResNet(BasicBlock, (3, 3, 3), (16, 32, 64), num_classes, channels, width, classifier_bias=True))


def resnet110(num_classes: int, channels: int = 3, width: float = 1.0) -> ResNet:
    """Build ResNet-110.

    Args:
        num_classes: number of outputs.
        channels: channels of an input image.
        width: factor on the number of channels of every hidden layer.
    """
    return kaiming(ResNet(BasicBlock, (18, 18, 18), (16, 32, 64), num_classes, channels, width, classifier_bias=True))


def kaiming(network: ResNet) -> ResNet:
    """Initialise convolutions and the classifier from Kaiming's normal distribution (fan-in), and return the network.

    ResNet-20 and ResNet-110 use it; ResNet-18 and ResNet-50 keep PyTorch's default initialisation.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight)
    return network
