"""VGG with batch normalisation for small images (Simonyan & Zisserman 2015), with a single linear layer."""

from __future__ import annotations

from torch import Tensor, nn

VGG16 = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
VGG19 = ((64, 64), (128, 128), (256,) * 4, (512,) * 4, (512,) * 4)


class VGG(nn.Module):
    """Blocks of 3x3 convolutions with max pooling in between, global average pooling, and a linear classifier.

    Args:
        blocks: for each block the channels of its convolutions, before `width` is applied.
        num_classes: number of outputs.
        channels: channels of an input image.
        width: factor on the number of channels of every convolution.
    """

    shrinks_by = 16

    def __init__(self, blocks: tuple[tuple[int, ...], ...], num_classes: int, channels: int, width: float) -> None:
        super().__init__()
        features: list[nn.Module] = []
        n_in = channels
        for number, block in enumerate(blocks):
            if number:
                features.append(nn.MaxPool2d(2))
            for unscaled in block:
                n_out = max(1, round(unscaled * width))
                features += [nn.Conv2d(n_in, n_out, 3, padding=1, bias=False), nn.BatchNorm2d(n_out), nn.ReLU(True)]
                n_in = n_out
        self.features = nn.Sequential(*features, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.classifier = nn.Linear(n_in, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.normal_(self.classifier.weight, 0, 0.01)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Compute logits [B, num_classes] of images [B, channels, side, side]."""
        logits: Tensor = self.classifier(self.features(x))
        return logits


def vgg16(num_classes: int, channels: int = 3, width: float = 1.0) -> VGG:
    """Build VGG-16.

    Args:
        num_classes: number of outputs.
        channels: channels of an input image.
        width: factor on the number of channels of every hidden layer.
    """
    return VGG(VGG16, num_classes, channels, width)


def vgg19(num_classes: int, channels: int = 3, width: float = 1.0) -> VGG:
    """Build VGG-19.

    Args:
        num_classes: number of outputs.
        channels: channels of an input image.
        width: factor on the number of channels of every hidden layer.
    """
    return VGG(VGG19, num_classes, channels, width)
