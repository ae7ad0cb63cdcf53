"""Batches made on the device out of images in memory: no worker processes, no per-image Python."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Augmentation:
    """A random crop out of the image with a border of `padding` pixels, and a random flip, for each image on its own.

    Attributes:
        padding: width of the border; 0 is no crop.
        mode: "zero" (black) or "reflect" (mirrored without the edge pixel).
        flip: mirror half of the images.
    """

    padding: int = 0
    mode: str = "zero"
    flip: bool = False

    def positions(self, count: int, side: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
        """Which row and column of the image each output pixel shows; -1 or `side` and beyond lie in the border.

        Returns:
            Rows [count, side] and columns [count, side], int64, on the CPU.
        """
        shift = torch.randint(0, 2 * self.padding + 1, (2, count, 1), generator=random) - self.padding
        rows, columns = torch.arange(side) + shift
        if self.flip:
            mirrored = torch.rand(count, 1, generator=random) < 0.5
            columns = torch.where(mirrored, columns.flip(1), columns)
        return self._inside(rows, side), self._inside(columns, side)

    def _inside(self, positions: Tensor, side: int) -> Tensor:
        if self.mode == "zero":
            return positions
        return (side - 1) - ((side - 1) - positions.abs()).abs()


@dataclass(frozen=True)
class ImageTable:
    """Images as a table of pixels [N * side * side, C], uint8: on a CPU the very memory that they came in."""

    pixels: Tensor
    labels: Tensor
    side: int
    mean: Tensor
    std: Tensor

    @classmethod
    def of(cls, x: Tensor, y: Tensor, mean: list[float], std: list[float], device: torch.device) -> ImageTable:
        """Of uint8 images [N, side, side, C] and labels [N]; `mean` and `std` [C] are in units of the full range."""
        scale = torch.tensor([mean, std], device=device) * 255
        return cls(x.reshape(-1, x.shape[3]).to(device), y.to(device), x.shape[1], scale[0], scale[1])

    def batch(self, index: Tensor, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised images [B, C, side, side] in channels-last layout, and labels [B].

        One gather does selection, crop and flip: each output pixel is looked up in the table. The border is black.
        """
        index, rows, columns = (self._there(tensor) for tensor in (index, rows, columns))
        row, column = rows[:, :, None], columns[:, None, :]
        outside = (row < 0) | (row >= self.side) | (column < 0) | (column >= self.side)
        where = ((index[:, None, None] * self.side + row) * self.side + column).masked_fill_(outside, 0)
        picked = self.pixels.index_select(0, where.reshape(-1)).reshape(*where.shape, self.pixels.shape[1])
        picked.masked_fill_(outside[..., None], 0)
        images = (picked.float() - self.mean) / self.std
        return images.permute(0, 3, 1, 2), self.labels[index]

    def _there(self, tensor: Tensor) -> Tensor:
        """On the device of the images, without waiting for what that is doing."""
        device = self.pixels.device
        return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


EVALUATED = 500  # images of a batch that is only evaluated


def split(count: int, validation: float, seed: int) -> tuple[Tensor, Tensor]:
    """Which of `count` images are held out for validation, and which train; both in a random order."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    held_out = round(validation * count)
    return order[:held_out], order[held_out:]


def smallest(count: int, batch_size: int) -> int:
    """How many images the smallest batch of a pass over `count` has."""
    sizes = [len(chunk) for chunk in _chunks(torch.arange(count), batch_size)]
    return min(sizes)


def _chunks(order: Tensor, batch_size: int) -> list[Tensor]:
    """`order` in global batches. BatchNorm cannot train on one image, so a last one that is very small is joined."""
    chunks = list(torch.split(order, batch_size))
    if len(chunks) > 1 and len(chunks[-1]) < max(2, batch_size // 8):
        chunks[-2:] = [torch.cat(chunks[-2:])]
    return chunks


class Batches:
    """One pass over a part of the images, in an order that follows from (seed, epoch) alone.

    Iterating yields (images, labels) on the device. Under several ranks each takes its share of every global batch, and
    every image is seen once. A last batch of less than an eighth is joined to the one before, so that global batches do
    not depend on how many ranks there are.

    Args:
        images: the table.
        index: which images [n].
        batch_size: of all ranks together.
        seed: of order and augmentation; None keeps the order and changes nothing.
        augmentation: for training.
        epoch: tells the current epoch when a pass begins.
        rank, world_size: of this process.
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
        return len(_chunks(self.index, self.batch_size))

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        random = torch.Generator()
        order, augmentation = self.index, Augmentation()
        if self.seed is not None:
            random.manual_seed((self.seed * 1_000_003 + self.epoch()) % 2**63)
            order, augmentation = order[torch.randperm(len(order), generator=random)], self.augmentation
        for chunk in _chunks(order, self.batch_size):
            rows, columns = augmentation.positions(len(chunk), self.images.side, random)
            mine = slice(self.rank, None, self.world_size)
            yield self.images.batch(chunk[mine], rows[mine], columns[mine])
