"""The LightningDataModule on top."""

from __future__ import annotations

import pytorch_lightning as pl
import torch

from ersparse.config.schema import DatasetSettings
from ersparse.data.arrays import Arrays
from ersparse.data.batches import EVALUATED, Augmentation, Batches, ImageTable, split


class InMemory(pl.LightningDataModule):
    """Training, test and (where asked for) validation images on the device of the trainer.

    Lightning's validation loop evaluates the test images after every epoch, and the validation images if there are any.
    `eval_names` says which comes when.
    """

    def __init__(self, arrays: Arrays, settings: DatasetSettings, seed: int) -> None:
        super().__init__()
        self.arrays, self.settings, self.seed = arrays, settings, seed
        self.eval_names = ["test", "val"] if settings.validation else ["test"]

    def setup(self, stage: str) -> None:
        s, arrays = self.settings, self.arrays
        device = self._trainer().strategy.root_device
        self.train_images = ImageTable.of(arrays.x_train, arrays.y_train, s.mean, s.std, device)
        self.test_images = ImageTable.of(arrays.x_test, arrays.y_test, s.mean, s.std, device)
        self.val_index, self.train_index = split(len(arrays.y_train), s.validation, self.seed)

    def train_dataloader(self) -> Batches:
        s = self.settings
        augmentation = Augmentation(s.crop_padding, s.padding_mode, s.flip) if s.augment else Augmentation()
        rank, ranks = self._ranks()
        return Batches(
            self.train_images,
            self.train_index,
            s.batch_size,
            seed=self.seed,
            augmentation=augmentation,
            epoch=lambda: self._trainer().current_epoch,
            rank=rank,
            world_size=ranks,
        )

    def val_dataloader(self) -> list[Batches]:
        rank, ranks = self._ranks()
        parts = [(self.test_images, torch.arange(len(self.arrays.y_test))), (self.train_images, self.val_index)]
        wanted = parts[: len(self.eval_names)]
        return [Batches(images, index, EVALUATED, rank=rank, world_size=ranks) for images, index in wanted]

    def _ranks(self) -> tuple[int, int]:
        trainer = self._trainer()
        return trainer.global_rank, trainer.world_size

    def _trainer(self) -> pl.Trainer:
        assert self.trainer is not None, "the data belong to a Trainer"
        return self.trainer
