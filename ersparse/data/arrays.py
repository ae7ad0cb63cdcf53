"""Data sets in memory: images and labels for training and testing, validated on load."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from ersparse.errors import UserError


@dataclass(frozen=True)
class Arrays:
    """A data set for image classification.

    Attributes:
        x_train, x_test: images, uint8 [N, H, W, C].
        y_train, y_test: labels, int64 [N].
        damaged: names of images that were left out.
    """

    x_train: Tensor
    y_train: Tensor
    x_test: Tensor
    y_test: Tensor
    damaged: Sequence[str] = field(default=(), kw_only=True)

    def resized(self, height: int, width: int | None = None) -> Arrays:
        """Return the data set with images of `height` x `width` pixels, square by default (bilinear, antialiased)."""
        size = (height, width or height)
        return replace(self, x_train=_resize(self.x_train, size), x_test=_resize(self.x_test, size))

    def check(self, where: str, num_classes: int, channels: int, size: tuple[int, int] = (1, 1)) -> Arrays:
        """Validate types, shapes and labels, and return the data set itself.

        Args:
            where: begins the error message, such as "dataset=cifar10".
            num_classes: labels lie in [0, num_classes).
            channels: of the images.
            size: height and width that are asked for; images must be square if these are.

        Raises:
            UserError: one line that names the array, what it is, and what it must be.
        """
        _check_part(where, "train", self.x_train, self.y_train, num_classes, channels, size)
        _check_part(where, "test", self.x_test, self.y_test, num_classes, channels, size)
        return self


def _check_part(
    where: str, part: str, x: Tensor, y: Tensor, num_classes: int, channels: int, size: tuple[int, int]
) -> None:
    square = size[0] == size[1]
    has_shape = x.dim() == 4 and x.shape[3] == channels and (x.shape[1] == x.shape[2] or not square) and len(x) > 0
    if x.dtype != torch.uint8 or not has_shape:
        sides = "side, side" if square else "height, width"
        raise UserError(f"{where}: x_{part} is {x.dtype} {list(x.shape)}, must be uint8 [N, {sides}, {channels}]")
    if y.dtype != torch.int64 or y.shape != x.shape[:1]:
        raise UserError(f"{where}: y_{part} is {y.dtype} {list(y.shape)}, must be int64 [{len(x)}]")
    if y.min() < 0 or y.max() >= num_classes:
        raise UserError(f"{where}: y_{part} has labels {y.min()}..{y.max()}, must lie in [0, {num_classes})")


def _resize(images: Tensor, size: tuple[int, int]) -> Tensor:
    if images.shape[1:3] == size:
        return images
    planes = images.permute(0, 3, 1, 2).float()
    resized = F.interpolate(planes, size=size, mode="bilinear", antialias=True)
    return resized.round().clamp(0, 255).byte().permute(0, 2, 3, 1).contiguous()
