"""LightningDataModule for images in memory or streamed."""

from __future__ import annotations

import logging

import pytorch_lightning as pl
import torch
from torch import Tensor

from ersparse.config.dataset_settings import DatasetSettings
from ersparse.data.arrays import Arrays
from ersparse.data.augmentation import Augmentation, augmentation_of
from ersparse.data.batches import EVALUATION_BATCH_SIZE, ImageTable, InMemoryDataLoader
from ersparse.data.epoch_plan import EpochPlan, train_validation_split
from ersparse.data.image_reader import ImageReader
from ersparse.data.mixing import mixing_of
from ersparse.data.streamed import ImageData
from ersparse.data.streamed_batches import StreamedDataLoader
from ersparse.data.transforms import transform_of
from ersparse.data.worker_pool import BATCHES_AHEAD, WorkerPool, worker_count

log = logging.getLogger("ersparse")

Loader = InMemoryDataLoader | StreamedDataLoader
TRAIN, TEST = 0, 1  # numbers of the splits in the worker pool


class ImageDataModule(pl.LightningDataModule):
    """Training, validation and test images.

    Images in memory lie on the device of the trainer, and a batch is one gather. Workers read images that are streamed,
    and training images that are transformed one by one.

    Lightning's validation loop evaluates the test images after every epoch, and the validation images if there are any.

    Args:
        images: the data set.
        settings: batch size, normalisation, augmentation and validation fraction.
        seed: of split, shuffling and augmentation.

    Attributes:
        eval_names: names of the validation data loaders, in order.
    """

    def __init__(self, images: ImageData, settings: DatasetSettings, seed: int) -> None:
        super().__init__()
        self.images, self.settings, self.seed = images, settings, seed
        self.eval_names = ["test", "val"] if settings.validation else ["test"]
        self.pool: WorkerPool | None = None
        self.tables: list[ImageTable] = []

    def setup(self, stage: str) -> None:
        """Copy images in memory to the device or make the worker pool, and split off the validation images."""
        s, images, transform = self.settings, self.images, transform_of(self.settings)
        self.train_index, self.val_index = train_validation_split(len(images.y_train), s.validation, self.seed)
        if taken := only_in(images.y_train[self.val_index], images.y_train[self.train_index]):
            log.warning(f"dataset.validation={s.validation}: takes all training images of classes {taken}")
        if isinstance(images, Arrays):
            parts = ((images.x_train, images.y_train), (images.x_test, images.y_test))
            self.tables = [ImageTable.from_images(x, y, s.mean, s.std, self._device()) for x, y in parts]
        if transform or not self.tables:
            workers = worker_count(s.workers, self._local_ranks(), self._device().type == "cuda")
            reader = ImageReader((images.x_train, images.x_test), transform, self.seed)
            self.pool = WorkerPool(reader, workers, BATCHES_AHEAD * s.batch_size // self._trainer().world_size)

    def teardown(self, stage: str) -> None:
        """End the worker processes."""
        if self.pool:
            self.pool.close()

    def train_dataloader(self) -> Loader:
        """Return the shuffled and augmented training images."""
        s = self.settings
        if self.pool is None:
            return InMemoryDataLoader(
                self.tables[TRAIN], self.train_index, s.batch_size, self.seed, augmentation_of(s), self._epoch,
                self._trainer().global_rank, self._trainer().world_size, mixing_of(s),
            )  # fmt: skip
        plan = EpochPlan(
            self.train_index, s.batch_size, s.size, self.seed, augmentation_of(s), mixing_of(s),
            self._trainer().global_rank, self._trainer().world_size,
        )  # fmt: skip
        return StreamedDataLoader(
            self.pool, TRAIN, self.images.y_train, plan, s.mean, s.std, self._device(), self._epoch
        )

    def val_dataloader(self) -> list[Loader]:
        """Return the loaders of `eval_names`, in order and without augmentation."""
        parts = [(TEST, torch.arange(len(self.images.y_test))), (TRAIN, self.val_index)]
        return [self._evaluated(part, index) for part, index in parts[: len(self.eval_names)]]

    def _evaluated(self, part: int, index: Tensor) -> Loader:
        s, trainer = self.settings, self._trainer()
        rank, world_size = trainer.global_rank, trainer.world_size
        if self.tables:
            return InMemoryDataLoader(self.tables[part], index, EVALUATION_BATCH_SIZE, rank=rank, world_size=world_size)
        assert self.pool
        labels = (self.images.y_train, self.images.y_test)[part]
        plan = EpochPlan(index, EVALUATION_BATCH_SIZE, s.size, None, Augmentation(), None, rank, world_size)
        return StreamedDataLoader(self.pool, part, labels, plan, s.mean, s.std, self._device())

    def _trainer(self) -> pl.Trainer:
        assert self.trainer is not None, "the data module is not attached to a Trainer"
        return self.trainer

    def _epoch(self) -> int:
        return self._trainer().current_epoch

    def _device(self) -> torch.device:
        return self._trainer().strategy.root_device

    def _local_ranks(self) -> int:
        return self._trainer().num_devices


def only_in(labels: Tensor, others: Tensor) -> list[int]:
    """Return the classes of `labels` [N] that `others` [M] does not have, in ascending order."""
    return sorted(set(labels.tolist()) - set(others.tolist()))
