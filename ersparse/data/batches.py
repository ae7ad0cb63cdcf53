"""Data loading from memory: a batch is gathered, cropped, flipped and normalised by tensor operations on the device."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ersparse.data.augmentation import Augmentation
from ersparse.data.epoch_plan import EpochPlan
from ersparse.data.mixing import Mixing
from ersparse.sparse.transfer import to_device

EVALUATION_BATCH_SIZE = 500  # images
CACHED_PIXELS = 1 << 17  # numbers that are normalised at a time, which take half a megabyte


@dataclass(frozen=True)
class ImageTable:
    """Images as a table of pixels, from which one gather makes a batch.

    Attributes:
        pixels: uint8 [N * height * width, C]; on the CPU a view of the images, without a copy.
        labels: int64 [N].
        size: height and width of an image in pixels.
        mean, std: [C], in units of a uint8 pixel.
    """

    pixels: Tensor
    labels: Tensor
    size: tuple[int, int]
    mean: Tensor
    std: Tensor

    @classmethod
    def from_images(cls, x: Tensor, y: Tensor, mean: list[float], std: list[float], device: torch.device) -> ImageTable:
        """Return the table on a device.

        Args:
            x: images, uint8 [N, height, width, C].
            y: labels, int64 [N].
            mean: [C], of pixels in [0, 1].
            std: [C], of pixels in [0, 1].
            device: on which batches are made.
        """
        scale = torch.tensor([mean, std], device=device) * 255
        return cls(x.reshape(-1, x.shape[3]).to(device), y.to(device), (x.shape[1], x.shape[2]), scale[0], scale[1])

    def batch(self, index: Tensor, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        """Return normalised images [B, C, height, width] in channels-last layout, and labels [B].

        One gather selects, crops and flips the images. Pixels outside an image are black before normalisation.

        Args:
            index: of the images, [B].
            rows: row of the image that each output row shows, [B, height].
            columns: column of the image that each output column shows, [B, width].
        """
        height, width = self.size
        index, rows, columns = self._to_device(index, rows, columns)
        row, column = rows[:, :, None], columns[:, None, :]
        outside = (row < 0) | (row >= height) | (column < 0) | (column >= width)
        where = ((index[:, None, None] * height + row) * width + column).masked_fill_(outside, 0)
        gathered = self.pixels.index_select(0, where.reshape(-1)).reshape(*where.shape, self.pixels.shape[1])
        gathered.masked_fill_(outside[..., None], 0)
        return normalised(gathered, self.mean, self.std), self.labels[index]

    def flipped(self, which: Tensor) -> tuple[Tensor, Tensor]:
        """Return all images as `batch` does, without a crop, which is faster than the gather.

        Args:
            which: images that are mirrored, bool [N].
        """
        images = self.pixels.reshape(-1, *self.size, self.pixels.shape[1])
        return normalised(mirrored(images, which.to(images.device)), self.mean, self.std), self.labels

    def _to_device(self, index: Tensor, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Copy to the device of the pixels: to a GPU by one asynchronous transfer, for which the host does not wait."""
        device = self.pixels.device
        if device.type == "cpu":
            return index, rows, columns
        packed = to_device(torch.cat([index[:, None], rows, columns], 1), device)
        return packed[:, 0], packed[:, 1 : 1 + self.size[0]], packed[:, 1 + self.size[0] :]


def normalised(pixels: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Return normalised images, float [B, C, height, width] in channels-last layout.

    Mean and deviation are repeated for each pixel of a row, so that operations run over whole rows and not over three
    channels at a time, which is several times slower.

    Args:
        pixels: uint8 [B, height, width, C].
        mean: [C], in units of a uint8 pixel.
        std: [C], likewise.
    """
    count, height, width, channels = pixels.shape
    rows = pixels.reshape(count, height, width * channels).float()
    images = rows.sub_(mean.repeat(width)).div_(std.repeat(width)).reshape(pixels.shape)
    return images.permute(0, 3, 1, 2)


def mirrored(images: Tensor, which: Tensor) -> Tensor:
    """Return images [N, height, width, C], of which those where `which`, bool [N], is true are mirrored."""
    if not which.any():
        return images
    return images.flip(2) if which.all() else torch.where(which[:, None, None, None], images.flip(2), images)


def normalised_parts(
    parts: Iterable[Tensor], shape: tuple[int, int, int], which: Tensor, mean: Tensor, std: Tensor
) -> Tensor:
    """Return `normalised(mirrored(torch.cat(parts), which), mean, std)` on a CPU, a few images at a time.

    These stay in the processor's cache, which halves the time of a batch that does not fit into it.

    Args:
        parts: images, uint8 [n, height, width, C] each, which are used one after the other.
        shape: height, width and channels of an image.
        which: images that are mirrored, bool [N].
        mean: [C], in units of a uint8 pixel.
        std: [C], likewise.
    """
    height, width, channels = shape
    rows = torch.empty(len(which), height, width * channels)
    means, stds, end = mean.repeat(width), std.repeat(width), 0
    step = max(1, CACHED_PIXELS // math.prod(shape))
    for images in (few for part in parts for few in torch.split(part, step)):
        start, end = end, end + len(images)
        chunk = rows[start:end].copy_(mirrored(images, which[start:end]).reshape(-1, height, width * channels))
        chunk.sub_(means).div_(stds)
    return rows.reshape(-1, height, width, channels).permute(0, 3, 1, 2)


class InMemoryDataLoader:
    """Iterates over (images, labels) on the device of an image table, as an `EpochPlan` says.

    Args:
        images: the table of all images.
        index: which images to iterate over, [n].
        batch_size: of all ranks together.
        seed: of shuffling and augmentation; None disables both.
        augmentation: applied if there is a seed.
        epoch: returns the current epoch at the start of an iteration.
        rank: of this process, in [0, world_size).
        world_size: number of ranks.
        mixing: applied if there is a seed; labels are then class probabilities, [B, num_classes].
    """

    def __init__(
        self,
        images: ImageTable,
        index: Tensor,
        batch_size: int,
        seed: int | None = None,
        augmentation: Augmentation = Augmentation(),
        epoch: Callable[[], int] = lambda: 0,
        rank: int = 0,
        world_size: int = 1,
        mixing: Mixing | None = None,
    ) -> None:
        self.images, self.epoch = images, epoch
        self.plan = EpochPlan(index, batch_size, images.size, seed, augmentation, mixing, rank, world_size)

    def __len__(self) -> int:
        return len(self.plan)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in self.plan.batches(self.epoch()):
            x, y = self.images.batch(batch.index, batch.rows, batch.columns)
            yield self.plan.mixed(batch, x, y)
