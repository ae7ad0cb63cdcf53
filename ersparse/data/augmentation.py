"""Random crops and flips, drawn for a whole batch and carried out by one gather."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ersparse.config.dataset_settings import DatasetSettings


@dataclass(frozen=True)
class Augmentation:
    """Random crop of the padded image and random horizontal flip, drawn for each image independently.

    Attributes:
        padding: width of the border in pixels; 0 disables cropping.
        mode: "zero" (black border) or "reflect" (mirrored without the edge pixel).
        flip: mirror each image with probability 1/2.
    """

    padding: int = 0
    mode: str = "zero"
    flip: bool = False

    def source_positions(self, count: int, size: tuple[int, int], random: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw crops and flips, and return which row and column of the image each output pixel shows.

        Args:
            count: number of images.
            size: height and width of an image in pixels.
            random: a generator on the CPU.

        Returns:
            Rows [count, height] and columns [count, width], int64, on the CPU; positions outside the image lie in the
            border.
        """
        shift = torch.randint(0, 2 * self.padding + 1, (2, count, 1), generator=random) - self.padding
        rows, columns = (torch.arange(length) + start for length, start in zip(size, shift, strict=True))
        if self.flip:
            flipped = torch.rand(count, 1, generator=random) < 0.5
            columns = torch.where(flipped, columns.flip(1), columns)
        return self._reflect(rows, size[0]), self._reflect(columns, size[1])

    def _reflect(self, positions: Tensor, length: int) -> Tensor:
        """Map positions in a reflected border to the pixels that they show."""
        if self.mode == "zero":
            return positions
        return (length - 1) - ((length - 1) - positions.abs()).abs()


def augmentation_of(settings: DatasetSettings) -> Augmentation:
    """Return the crops and flips of training images; a resized crop, made before, leaves only the flips."""
    padding = settings.crop_padding if settings.geometry == "crop" else 0
    return Augmentation(padding, settings.padding_mode, settings.flip and settings.geometry != "none")
