"""Data loading image by image: each is read and transformed by itself, and a batch is cropped on the device."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ersparse.data.batches import ImageTable
from ersparse.data.epoch_plan import EpochPlan
from ersparse.data.transforms import ImageTransform, image_seed


class ImageReader(Protocol):
    """Images that are read by their number."""

    def read(self, image: int) -> Tensor:
        """Return an image, uint8 [height, width, C]."""


@dataclass(frozen=True)
class ArrayReader:
    """Images in memory.

    Attributes:
        images: uint8 [N, height, width, C].
    """

    images: Tensor

    def read(self, image: int) -> Tensor:
        return self.images[image]


@dataclass(frozen=True)
class TransformedImages:
    """Images that are transformed when they are read.

    Attributes:
        reader: of the images.
        transform: of a single image.
        seed: data seed.
    """

    reader: ImageReader
    transform: ImageTransform
    seed: int

    def read(self, index: Tensor, epoch: int) -> Tensor:
        """Return images as they are shown in an epoch, uint8 [n, height, width, C]."""
        return torch.stack(
            [self.transform(self.reader.read(image), image_seed(self.seed, epoch, image)) for image in index.tolist()]
        )


class StreamedDataLoader:
    """Iterates over (images, labels) that are read one by one, as an `EpochPlan` says.

    Args:
        images: reads and transforms.
        labels: of all images, int64 [N].
        plan: of the batches.
        mean, std: of each channel, of pixels in [0, 1].
        device: on which batches are cropped, flipped and normalised.
        epoch: returns the current epoch at the start of an iteration.
    """

    def __init__(
        self,
        images: TransformedImages,
        labels: Tensor,
        plan: EpochPlan,
        mean: list[float],
        std: list[float],
        device: torch.device,
        epoch: Callable[[], int],
    ) -> None:
        self.images, self.labels, self.plan = images, labels, plan
        self.mean, self.std, self.device, self.epoch = mean, std, device, epoch

    def __len__(self) -> int:
        return len(self.plan)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        epoch = self.epoch()
        for batch in self.plan.batches(epoch):
            pixels = self.images.read(batch.index, epoch)
            table = ImageTable.from_images(pixels, self.labels[batch.index], self.mean, self.std, self.device)
            x, y = table.batch(torch.arange(len(pixels)), batch.rows, batch.columns)
            yield self.plan.mixed(batch, x, y)
