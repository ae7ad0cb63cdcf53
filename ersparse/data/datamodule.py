"""LightningDataModule for data sets in memory."""

from __future__ import annotations

import pytorch_lightning as pl
import torch

from ersparse.config.schema import DatasetSettings
from ersparse.data.arrays import Arrays
from ersparse.data.augmentation import augmentation_of
from ersparse.data.batches import EVALUATION_BATCH_SIZE, ImageTable, InMemoryDataLoader
from ersparse.data.epoch_plan import EpochPlan, train_validation_split
from ersparse.data.mixing import mixing_of
from ersparse.data.streamed_batches import ArrayReader, StreamedDataLoader, TransformedImages
from ersparse.data.transforms import ImageTransform, transform_of


class InMemoryDataModule(pl.LightningDataModule):
    """Training, validation and test images on the device of the trainer.

    Lightning's validation loop evaluates the test images after every epoch, and the validation images if there are any.

    Args:
        arrays: the data set.
        settings: batch size, normalisation, augmentation and validation fraction.
        seed: of split, shuffling and augmentation.

    Attributes:
        eval_names: names of the validation data loaders, in order.
    """

    def __init__(self, arrays: Arrays, settings: DatasetSettings, seed: int) -> None:
        super().__init__()
        self.arrays, self.settings, self.seed = arrays, settings, seed
        self.eval_names = ["test", "val"] if settings.validation else ["test"]

    def setup(self, stage: str) -> None:
        """Copy the images to the device, and split off the validation images."""
        s, arrays = self.settings, self.arrays
        device = self._trainer().strategy.root_device
        self.train_images = ImageTable.from_images(arrays.x_train, arrays.y_train, s.mean, s.std, device)
        self.test_images = ImageTable.from_images(arrays.x_test, arrays.y_test, s.mean, s.std, device)
        self.train_index, self.val_index = train_validation_split(len(arrays.y_train), s.validation, self.seed)

    def train_dataloader(self) -> InMemoryDataLoader | StreamedDataLoader:
        """Return the shuffled and augmented training images."""
        if transform := transform_of(self.settings):
            return self._transformed(transform)
        trainer = self._trainer()
        return InMemoryDataLoader(
            self.train_images,
            self.train_index,
            self.settings.batch_size,
            seed=self.seed,
            augmentation=augmentation_of(self.settings),
            epoch=lambda: self._trainer().current_epoch,
            rank=trainer.global_rank,
            world_size=trainer.world_size,
            mixing=mixing_of(self.settings),
        )

    def _transformed(self, transform: ImageTransform) -> StreamedDataLoader:
        """Return training images that are transformed one by one."""
        s, arrays, trainer = self.settings, self.arrays, self._trainer()
        images = TransformedImages(ArrayReader(arrays.x_train), transform, self.seed)
        plan = EpochPlan(
            self.train_index, s.batch_size, transform.size, self.seed, augmentation_of(s), mixing_of(s),
            trainer.global_rank, trainer.world_size,
        )  # fmt: skip
        device = trainer.strategy.root_device
        return StreamedDataLoader(images, arrays.y_train, plan, s.mean, s.std, device, lambda: trainer.current_epoch)

    def val_dataloader(self) -> list[InMemoryDataLoader]:
        """Return the loaders of `eval_names`, in order and without augmentation."""
        trainer = self._trainer()
        parts = [(self.test_images, torch.arange(len(self.arrays.y_test))), (self.train_images, self.val_index)]
        return [
            InMemoryDataLoader(
                images, index, EVALUATION_BATCH_SIZE, rank=trainer.global_rank, world_size=trainer.world_size
            )
            for images, index in parts[: len(self.eval_names)]
        ]

    def _trainer(self) -> pl.Trainer:
        assert self.trainer is not None, "the data module is not attached to a Trainer"
        return self.trainer
