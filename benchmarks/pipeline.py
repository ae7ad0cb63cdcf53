"""Data loading with random crops and flips, compared with torchvision's transforms of single images.

Images have the shape of CIFAR-10.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from benchmarks.hardware_limits import DEVICE, memory_bandwidth
from benchmarks.interleaved import Measurement, interleave, ratio
from benchmarks.plain_steps import dense_step, settings_of
from ersparse.data.augmentation import Augmentation
from ersparse.data.batches import ImageTable, InMemoryDataLoader

COUNT, BATCH, SIDE = 2560, 128, 32
MEAN, STD = [0.49, 0.48, 0.45], [0.25, 0.24, 0.26]


class PerImage(Dataset[tuple[torch.Tensor, int]]):
    """Data set that transforms each image individually, as torchvision's CIFAR10 does."""

    def __init__(self, images: np.ndarray) -> None:
        self.images = images
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(SIDE, 4),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(MEAN, STD),
            ]
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(Image.fromarray(self.images[index])), index % 10


def measure(arguments: Namespace) -> Iterator[Measurement]:
    """Yield the measurements of batches of both kinds of data loading."""
    x = np.random.default_rng(0).integers(0, 256, (COUNT, SIDE, SIDE, 3), dtype=np.uint8)
    table = ImageTable.from_images(torch.from_numpy(x), torch.arange(COUNT) % 10, MEAN, STD, DEVICE)
    ours = InMemoryDataLoader(table, torch.arange(COUNT), BATCH, seed=0, augmentation=Augmentation(4, flip=True))
    loaders = {
        "workers": DataLoader(
            PerImage(x), BATCH, shuffle=True, num_workers=torch.get_num_threads(), persistent_workers=True
        ),
        "in one process": DataLoader(PerImage(x), BATCH, shuffle=True),
    }
    parts = {"ours": lambda: _iterate(ours)}
    parts |= {name: lambda loader=loader: _iterate(loader) for name, loader in loaders.items()}
    parts["step"] = dense_step(settings_of(["model=resnet20", "dataset=cifar10", f"dataset.batch_size={BATCH}"]))
    seconds = interleave(parts, arguments.rounds or 10)
    batch = [elapsed * BATCH / COUNT for elapsed in seconds["ours"]]
    floor = BATCH * SIDE * SIDE * 3 * (1 + 4) / memory_bandwidth()  # a byte is read and a float is written
    yield Measurement("pipeline: a batch", batch, floor, unit=" s")
    yield ratio("pipeline: a batch / step of resnet20", batch, seconds["step"], at_most=0.03)
    for name in loaders:
        yield ratio(f"pipeline: ours / image by image, {name}", seconds["ours"], seconds[name], at_most=0.1)


def _iterate(batches: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> None:
    """Iterate over all batches, so that no worker process is busy when the next part is timed."""
    for images, labels in batches:
        images.to(DEVICE), labels.to(DEVICE)
