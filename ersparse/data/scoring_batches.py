"""Training images for pruners to score by, as they are: normalised, not augmented, none that is held out."""

from __future__ import annotations

import torch
from torch import Tensor

from ersparse.config.schema import DatasetSettings
from ersparse.data.arrays import Arrays
from ersparse.data.batches import Augmentation, ImageTable, split
from ersparse.sparse.rng import generator
from ersparse.sparse.scores import Batches

LARGEST = 256  # images of a batch: what second derivatives of a resnet50 leave room for


class TrainingExamples:
    """Images in an order that follows from the data seed."""

    def __init__(self, arrays: Arrays, settings: DatasetSettings, seed: int) -> None:
        self.images = ImageTable.of(arrays.x_train, arrays.y_train, settings.mean, settings.std, torch.device("cpu"))
        _, train = split(len(arrays.y_train), settings.validation, seed)
        self.order = train[torch.from_numpy(generator(seed, "scores").permutation(len(train)))]
        self.num_classes = settings.num_classes

    def some(self, count: int) -> Batches:
        """One batch of `count` images, or of all where there are fewer."""
        return [self._batch(self.order[:count])]

    def of_each_class(self, count: int) -> Batches:
        """`count` of each class, or as many as there are; classes take turns, so that each batch is balanced."""
        labels = self.images.labels[self.order]
        by_class = [self.order[labels == number][:count] for number in range(self.num_classes)]
        longest = max(map(len, by_class))
        chosen = torch.cat([of[turn : turn + 1] for turn in range(longest) for of in by_class])
        return [self._batch(part) for part in chosen.chunk(-(-len(chosen) // LARGEST))]

    def _batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        x, y = self.images.batch(index, *Augmentation().positions(len(index), self.images.side, torch.Generator()))
        return x.contiguous(), y
