"""Making batches of CIFAR-10's shape with crops and flips: ersparse's, and torchvision's transforms image by image."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from benchmarks.hardware_limits import DEVICE, bandwidth
from benchmarks.interleaved import Figure, in_turns, ratio
from benchmarks.networks import dense_step, settings_of
from ersparse.data.batches import Augmentation, ImageTable, InMemoryDataLoader

COUNT, BATCH, SIDE = 2560, 128, 32
MEAN, STD = [0.49, 0.48, 0.45], [0.25, 0.24, 0.26]


class PerImage(Dataset[tuple[torch.Tensor, int]]):
    """As torchvision's CIFAR10 does it: a PIL image, transformed by itself."""

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


def figures(asked: Namespace) -> Iterator[Figure]:
    x = np.random.default_rng(0).integers(0, 256, (COUNT, SIDE, SIDE, 3), dtype=np.uint8)
    table = ImageTable.from_images(torch.from_numpy(x), torch.arange(COUNT) % 10, MEAN, STD, DEVICE)
    ours = InMemoryDataLoader(table, torch.arange(COUNT), BATCH, seed=0, augmentation=Augmentation(4, flip=True))
    count = torch.get_num_threads()
    loaders = {
        "workers": DataLoader(PerImage(x), BATCH, shuffle=True, num_workers=count, persistent_workers=True),
        "in one process": DataLoader(PerImage(x), BATCH, shuffle=True),
    }
    parts = {"ours": lambda: _pass(ours)}
    parts |= {name: lambda loader=loader: _pass(loader) for name, loader in loaders.items()}
    parts["step"] = dense_step(settings_of(["model=resnet20", "dataset=cifar10", f"dataset.batch_size={BATCH}"]))
    seconds = in_turns(parts, asked.rounds or 10)
    batch = [took * BATCH / COUNT for took in seconds["ours"]]
    floor = BATCH * SIDE * SIDE * 3 * (1 + 4) / bandwidth()  # a byte is read, a float is written
    yield Figure("pipeline: a batch", batch, floor, unit=" s")
    yield ratio("pipeline: a batch / step of resnet20", batch, seconds["step"], at_most=0.03)
    for name in loaders:
        yield ratio(f"pipeline: ours / image by image, {name}", seconds["ours"], seconds[name], at_most=0.1)


def _pass(batches: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> None:
    """Over all of them: workers have nothing left to do while the others have their turn."""
    for images, labels in batches:
        images.to(DEVICE), labels.to(DEVICE)
