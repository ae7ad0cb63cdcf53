"""Data loading from memory: a batch is gathered, cropped, flipped and normalised by tensor operations on the device."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

EVALUATION_BATCH_SIZE = 500  # images


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

    def source_positions(self, count: int, side: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw crops and flips, and return which row and column of the image each output pixel shows.

        Args:
            count: number of images.
            side: height and width of an image in pixels.
            random: a generator on the CPU.

        Returns:
            Rows [count, side] and columns [count, side], int64, on the CPU; negative positions and those from `side`
            on lie in the border.
        """
        shift = torch.randint(0, 2 * self.padding + 1, (2, count, 1), generator=random) - self.padding
        rows, columns = torch.arange(side) + shift
        if self.flip:
            flipped = torch.rand(count, 1, generator=random) < 0.5
            columns = torch.where(flipped, columns.flip(1), columns)
        return self._reflect(rows, side), self._reflect(columns, side)

    def _reflect(self, positions: Tensor, side: int) -> Tensor:
        """Map positions in a reflected border to the pixels that they show."""
        if self.mode == "zero":
            return positions
        return (side - 1) - ((side - 1) - positions.abs()).abs()


@dataclass(frozen=True)
class ImageTable:
    """Images as a table of pixels, from which one gather makes a batch.

    Attributes:
        pixels: uint8 [N * side * side, C]; on the CPU a view of the images, without a copy.
        labels: int64 [N].
        side: height and width of an image in pixels.
        mean, std: [C], in units of a uint8 pixel.
    """

    pixels: Tensor
    labels: Tensor
    side: int
    mean: Tensor
    std: Tensor

    @classmethod
    def from_images(cls, x: Tensor, y: Tensor, mean: list[float], std: list[float], device: torch.device) -> ImageTable:
        """Return the table on a device.

        Args:
            x: images, uint8 [N, side, side, C].
            y: labels, int64 [N].
            mean: [C], of pixels in [0, 1].
            std: [C], of pixels in [0, 1].
            device: on which batches are made.
        """
        scale = torch.tensor([mean, std], device=device) * 255
        return cls(x.reshape(-1, x.shape[3]).to(device), y.to(device), x.shape[1], scale[0], scale[1])

    def batch(self, index: Tensor, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        """Return normalised images [B, C, side, side] in channels-last layout, and labels [B].

        One gather selects, crops and flips the images. Pixels outside an image are black before normalisation.

        Args:
            index: of the images, [B].
            rows: row of the image that each output row shows, [B, side].
            columns: column of the image that each output column shows, [B, side].
        """
        index, rows, columns = self._to_device(index, rows, columns)
        row, column = rows[:, :, None], columns[:, None, :]
        outside = (row < 0) | (row >= self.side) | (column < 0) | (column >= self.side)
        where = ((index[:, None, None] * self.side + row) * self.side + column).masked_fill_(outside, 0)
        gathered = self.pixels.index_select(0, where.reshape(-1)).reshape(*where.shape, self.pixels.shape[1])
        gathered.masked_fill_(outside[..., None], 0)
        images = (gathered.float() - self.mean) / self.std
        return images.permute(0, 3, 1, 2), self.labels[index]

    def _to_device(self, index: Tensor, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Copy to the device of the pixels: to a GPU by one asynchronous transfer, for which the host does not wait."""
        device = self.pixels.device
        if device.type == "cpu":
            return index, rows, columns
        packed = torch.cat([index[:, None], rows, columns], 1).pin_memory().to(device, non_blocking=True)
        return packed[:, 0], packed[:, 1 : 1 + self.side], packed[:, 1 + self.side :]


def train_validation_split(count: int, validation: float, seed: int) -> tuple[Tensor, Tensor]:
    """Split the images 0 to `count` - 1 at random, and return the indices of the training and the validation images.

    Args:
        count: number of images.
        validation: fraction of the images that are held out for validation, in [0, 1).
        seed: of the permutation.
    """
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    held_out = round(validation * count)
    return order[held_out:], order[:held_out]


def smallest_batch(count: int, batch_size: int) -> int:
    """Return the size of the smallest global batch of an epoch over `count` images."""
    sizes = [len(chunk) for chunk in _global_batches(torch.arange(count), batch_size)]
    return min(sizes)


def batches_in(count: int, batch_size: int) -> int:
    """Return the number of global batches of an epoch over `count` images."""
    return len(_global_batches(torch.arange(count), batch_size))


def _global_batches(order: Tensor, batch_size: int) -> list[Tensor]:
    """Split `order` into global batches; a last one below an eighth of the batch size is merged into the one before.

    BatchNorm cannot train on a batch of one image.
    """
    chunks = list(torch.split(order, batch_size))
    if len(chunks) > 1 and len(chunks[-1]) < max(2, batch_size // 8):
        chunks[-2:] = [torch.cat(chunks[-2:])]
    return chunks


class InMemoryDataLoader:
    """Iterates over (images, labels) on the device of an image table, in an order determined by (seed, epoch).

    Under distributed training each rank takes every world_size-th image of a global batch, so that each image is seen
    once per epoch, and global batches do not depend on the number of ranks. A last batch of less than an eighth of the
    batch size is merged into the one before.

    Args:
        images: the table of all images.
        index: which images to iterate over, [n].
        batch_size: of all ranks together.
        seed: of shuffling and augmentation; None disables both.
        augmentation: applied if there is a seed.
        epoch: returns the current epoch at the start of an iteration.
        rank: of this process, in [0, world_size).
        world_size: number of ranks.
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
    ) -> None:
        self.images, self.index, self.batch_size = images, index, batch_size
        self.seed, self.augmentation, self.epoch = seed, augmentation, epoch
        self.rank, self.world_size = rank, world_size

    def __len__(self) -> int:
        return len(_global_batches(self.index, self.batch_size))

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        random = torch.Generator()
        order, augmentation = self.index, Augmentation()
        if self.seed is not None:
            random.manual_seed((self.seed * 1_000_003 + self.epoch()) % 2**63)
            order, augmentation = order[torch.randperm(len(order), generator=random)], self.augmentation
        for chunk in _global_batches(order, self.batch_size):
            # drawn for the global batch, so that augmentation does not depend on the number of ranks either
            rows, columns = augmentation.source_positions(len(chunk), self.images.side, random)
            own = slice(self.rank, None, self.world_size)
            yield self.images.batch(chunk[own], rows[own], columns[own])
