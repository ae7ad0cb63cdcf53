"""The batches of an epoch: which images, in which order, how cropped and mixed. Everything follows from (seed, epoch).

Nothing depends on how images are read, or on the number of ranks and worker processes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ersparse.data.augmentation import Augmentation
from ersparse.data.mixing import Mix, Mixing

NO_AUGMENTATION = Augmentation()


@dataclass(frozen=True)
class PlannedBatch:
    """This rank's share of a global batch.

    Attributes:
        index: of the images to read, [n]: those of this rank, and, if they are mixed, their partners.
        rows, columns: row and column of the image that each output row and column shows, [n, height] and [n, width].
        own: positions of this rank's images in the global batch, [B].
        mix: how images are mixed; None leaves them, and n = B.
    """

    index: Tensor
    rows: Tensor
    columns: Tensor
    own: Tensor
    mix: Mix | None


@dataclass(frozen=True)
class EpochPlan:
    """The batches of all epochs of one rank.

    Under distributed training each rank takes every world_size-th image of a global batch, so that each image is seen
    once per epoch, and global batches do not depend on the number of ranks. A last batch of less than an eighth of the
    batch size is merged into the one before.

    Attributes:
        index: which images to iterate over, [n].
        batch_size: of all ranks together.
        size: height and width of an image in pixels.
        seed: of shuffling and augmentation; None disables both.
        augmentation: applied if there is a seed.
        mixing: applied if there is a seed; None leaves the images.
        rank: of this process, in [0, world_size).
        world_size: number of ranks.
    """

    index: Tensor
    batch_size: int
    size: tuple[int, int]
    seed: int | None = None
    augmentation: Augmentation = NO_AUGMENTATION
    mixing: Mixing | None = None
    rank: int = 0
    world_size: int = 1

    @cached_property
    def batch_sizes(self) -> list[int]:
        """Number of images of each global batch."""
        return [len(chunk) for chunk in _global_batches(self.index, self.batch_size)]

    def __len__(self) -> int:
        return len(self.batch_sizes)

    def batches(self, epoch: int) -> Iterator[PlannedBatch]:
        """Yield the batches of an epoch."""
        random = torch.Generator()
        order, augmentation = self.index, NO_AUGMENTATION
        if self.seed is not None:
            random.manual_seed((self.seed * 1_000_003 + epoch) % 2**63)
            order, augmentation = order[torch.randperm(len(order), generator=random)], self.augmentation
        for number, chunk in enumerate(_global_batches(order, self.batch_size)):
            # drawn for the global batch, so that augmentation does not depend on the number of ranks either
            rows, columns = augmentation.source_positions(len(chunk), self.size, random)
            own = torch.arange(self.rank, len(chunk), self.world_size)
            mix = self._mix(epoch, number, len(chunk))
            read = mix.needed(own) if mix else own
            yield PlannedBatch(chunk[read], rows[read], columns[read], own, mix)

    def _mix(self, epoch: int, number: int, count: int) -> Mix | None:
        if self.seed is None or self.mixing is None:
            return None
        return self.mixing.draw(self.seed, epoch, number, count, self.size)

    def mixed(self, batch: PlannedBatch, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return the images and labels of a batch, mixed if `batch.mix` says so."""
        if batch.mix is None or self.mixing is None:
            return x, y
        return batch.mix.apply(x, y, batch.own, self.mixing.num_classes)


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
