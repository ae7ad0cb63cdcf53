"""A data set as four arrays, checked once."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ersparse.errors import UserError


@dataclass(frozen=True)
class Arrays:
    """Images uint8 [N, H, W, C] and labels int64 [N], for training and for testing."""

    x_train: Tensor
    y_train: Tensor
    x_test: Tensor
    y_test: Tensor

    def resized(self, side: int) -> Arrays:
        """The same images with `side` x `side` pixels (bilinear, antialiased)."""
        return Arrays(_resize(self.x_train, side), self.y_train, _resize(self.x_test, side), self.y_test)

    def check(self, where: str, num_classes: int, channels: int) -> Arrays:
        """Itself, if it holds what it should.

        Raises:
            UserError: one line that begins with `where` and names the array and what was expected of it.
        """
        for part in ("train", "test"):
            x, y = getattr(self, f"x_{part}"), getattr(self, f"y_{part}")
            if (
                x.dtype != torch.uint8
                or x.dim() != 4
                or x.shape[3] != channels
                or x.shape[1] != x.shape[2]
                or not len(x)
            ):
                raise UserError(
                    f"{where}: x_{part} is {x.dtype} {list(x.shape)}, must be uint8 [N, side, side, {channels}]"
                )
            if y.dtype != torch.int64 or y.shape != x.shape[:1]:
                raise UserError(f"{where}: y_{part} is {y.dtype} {list(y.shape)}, must be int64 [{len(x)}]")
            if y.min() < 0 or y.max() >= num_classes:
                raise UserError(f"{where}: y_{part} has labels {y.min()}..{y.max()}, must lie in [0, {num_classes})")
        return self


def _resize(images: Tensor, side: int) -> Tensor:
    if images.shape[1] == side:
        return images
    planes = images.permute(0, 3, 1, 2).float()
    resized = F.interpolate(planes, size=(side, side), mode="bilinear", antialias=True)
    return resized.round().clamp(0, 255).byte().permute(0, 2, 3, 1).contiguous()
