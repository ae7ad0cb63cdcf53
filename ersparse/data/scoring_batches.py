"""Training images on which pruners at initialisation compute their scores: normalised, without augmentation."""

from __future__ import annotations

import torch
from torch import Tensor

from ersparse.config.dataset_settings import DatasetSettings
from ersparse.data.augmentation import Augmentation
from ersparse.data.batches import ImageTable
from ersparse.data.epoch_plan import train_validation_split
from ersparse.data.streamed import ImageData
from ersparse.sparse.rng import generator
from ersparse.sparse.scores import Batches

MAX_BATCH_SIZE = 256  # images; second derivatives of resnet50 need much memory


class ScoringExamples:
    """Training images, without the validation images, in an order determined by the data seed.

    Args:
        arrays: the data set.
        settings: normalisation, number of classes, and validation fraction.
        seed: data seed, of the split and of the order.
        device: of the batches.
    """

    def __init__(
        self,
        arrays: ImageData,
        settings: DatasetSettings,
        seed: int,
        device: torch.device = torch.device("cpu"),
    ) -> None:
        self.arrays, self.mean, self.std, self.device = arrays, settings.mean, settings.std, device
        train, _ = train_validation_split(len(arrays.y_train), settings.validation, seed)
        self.order = train[torch.from_numpy(generator(seed, "scores").permutation(len(train)))]
        self.num_classes = settings.num_classes

    def some(self, count: int) -> Batches:
        """Return one batch of `count` images, or of all images if there are fewer."""
        return [self._batch(self.order[:count])]

    def of_each_class(self, count: int) -> Batches:
        """Return `count` images of each class, or as many as there are, in class-balanced batches."""
        labels = self.arrays.y_train[self.order]
        by_class = [self.order[labels == number][:count] for number in range(self.num_classes)]
        longest = max(map(len, by_class))
        # One image of each class in turn, so that every batch is balanced.
        chosen = torch.cat([images[turn : turn + 1] for turn in range(longest) for images in by_class])
        return [self._batch(index) for index in chosen.chunk(-(-len(chosen) // MAX_BATCH_SIZE))]

    def _batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        pixels, labels = self.arrays.x_train[index], self.arrays.y_train[index]
        table = ImageTable.from_images(pixels, labels, self.mean, self.std, self.device)
        positions = Augmentation().source_positions(len(index), table.size, torch.Generator())
        x, y = table.batch(torch.arange(len(index)), *positions)
        return x.contiguous(), y
