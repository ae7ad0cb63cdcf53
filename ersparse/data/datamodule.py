"""LightningDataModule for data sets in memory."""

from __future__ import annotations

import pytorch_lightning as pl
import torch

from ersparse.config.schema import DatasetSettings
from ersparse.data.arrays import Arrays
from ersparse.data.batches import (
    EVALUATION_BATCH_SIZE,
    Augmentation,
    ImageTable,
    InMemoryDataLoader,
    train_validation_split,
)


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

    def train_dataloader(self) -> InMemoryDataLoader:
        """Return the shuffled and augmented training images."""
        s = self.settings
        trainer = self._trainer()
        return InMemoryDataLoader(
            self.train_images,
            self.train_index,
            s.batch_size,
            seed=self.seed,
            augmentation=Augmentation(s.crop_padding, s.padding_mode, s.flip) if s.augment else Augmentation(),
            epoch=lambda: self._trainer().current_epoch,
            rank=trainer.global_rank,
            world_size=trainer.world_size,
        )

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
