"""Data loading image by image: workers read and transform images, and a batch is cropped and flipped on the device."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ersparse.data.batches import ImageTable, normalised_parts
from ersparse.data.epoch_plan import EpochPlan, PlannedBatch
from ersparse.data.image_reader import CHUNK, Request
from ersparse.data.worker_pool import WorkerPool


class StreamedDataLoader:
    """Iterates over (images, labels) that workers read one by one, as an `EpochPlan` says.

    Args:
        pool: reads the images.
        part: number of the split in the pool.
        labels: of all images of the split, int64 [N].
        plan: of the batches.
        mean, std: of each channel, of pixels in [0, 1].
        device: on which batches are cropped, flipped and normalised.
        epoch: returns the current epoch at the start of an iteration; None for evaluation.
    """

    def __init__(
        self,
        pool: WorkerPool,
        part: int,
        labels: Tensor,
        plan: EpochPlan,
        mean: list[float],
        std: list[float],
        device: torch.device,
        epoch: Callable[[], int] | None = None,
    ) -> None:
        self.pool, self.part, self.labels, self.plan = pool, part, labels, plan
        self.mean, self.std, self.device, self.epoch = mean, std, device, epoch

    def __len__(self) -> int:
        return len(self.plan)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        epoch = self.epoch() if self.epoch else None
        chunks = self.pool.read(self.requests(epoch))
        for batch in self.plan.batches(epoch or 0):
            parts = itertools.islice(chunks, -(-len(batch.index) // CHUNK))
            yield self.plan.mixed(batch, *self._cropped(batch, parts))

    def _cropped(self, batch: PlannedBatch, parts: Iterator[Tensor]) -> tuple[Tensor, Tensor]:
        """Return images and labels on the device, cropped, flipped and normalised."""
        labels, flipped = self.labels[batch.index], batch.columns[:, 0] > 0
        if self.device.type == "cpu" and not self.plan.augmentation.padding:
            mean, std = torch.tensor([self.mean, self.std]) * 255
            return normalised_parts(parts, self.pool.reader.shape, flipped, mean, std), labels
        pixels = self._gather(parts, len(labels))
        table = ImageTable.from_images(pixels, labels, self.mean, self.std, self.device)
        if self.plan.augmentation.padding:
            return table.batch(torch.arange(len(pixels)), batch.rows, batch.columns)
        return table.flipped(flipped)

    def requests(self, epoch: int | None) -> Iterator[Request]:
        """Yield what is asked of the pool in an epoch."""
        for batch in self.plan.batches(epoch or 0):
            yield from self._chunks(batch, epoch)

    def _chunks(self, batch: PlannedBatch, epoch: int | None) -> Iterator[Request]:
        for images in torch.split(batch.index, CHUNK):
            yield Request(self.part, images.tolist(), epoch)

    def _gather(self, parts: Iterator[Tensor], count: int) -> Tensor:
        """Return `count` images in one tensor, in pinned memory if they go to a GPU."""
        shape = self.pool.reader.shape
        images = torch.empty(count, *shape, dtype=torch.uint8, pin_memory=self.device.type == "cuda")
        end = 0
        for part in parts:  # each is overwritten when the next is asked for
            start, end = end, end + len(part)
            images[start:end] = part
        return images
