"""Streamed images compared with a plain torchvision loop and with decoding alone, and peak memory by number of images.

Images are JPEG files of ImageNet's sizes, cropped and resized to 224x224 and flipped. All alternatives use one process
for each core. In processor time (`--processor`) they use the main process alone.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import warnings
from argparse import Namespace
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from torch.utils.data import DataLoader, Dataset
from torchvision import datasets, transforms
from torchvision.io import decode_jpeg, read_file

from benchmarks.hardware_limits import DEVICE
from benchmarks.interleaved import PROCESSOR_TIME, Measurement, interleave, ratio
from benchmarks.made_up_imagenet import write_imagenet
from ersparse.config.dataset_settings import DatasetSettings
from ersparse.config.groups import build
from ersparse.config.options import with_defaults
from ersparse.data.augmentation import augmentation_of
from ersparse.data.epoch_plan import EpochPlan
from ersparse.data.image_reader import ImageReader
from ersparse.data.load import load_arrays
from ersparse.data.streamed_batches import StreamedDataLoader
from ersparse.data.transforms import transform_of
from ersparse.data.worker_pool import WorkerPool
from ersparse.lightning.allocator import keep_freed

CLASSES, IMAGES, BATCH = 10, 32, 64  # IMAGES of each class
COUNTS = (1000, 100_000)  # images, of which the peak memory is compared


class Decoded(Dataset[int]):
    """Decodes files, and returns nothing of them."""

    def __init__(self, paths: list[str]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> int:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torchvision announces another package for its decoders
            return decode_jpeg(read_file(self.paths[index])).shape[1]


def settings_of(root: Path, classes: int, **keys: object) -> DatasetSettings:
    values = {"root": str(root), "num_classes": classes, "batch_size": BATCH} | keys
    return build(DatasetSettings, with_defaults("dataset", "imagenet") | values, "dataset.")


def streamed(settings: DatasetSettings, workers: int) -> StreamedDataLoader:
    """Return the training images of a data set as a run reads them."""
    images = load_arrays(settings)
    reader = ImageReader((images.x_train, images.x_test), transform_of(settings), 0)
    pool = WorkerPool(reader, workers, 2 * settings.batch_size)
    index = torch.arange(len(images.y_train))
    plan = EpochPlan(index, settings.batch_size, settings.size, 0, augmentation_of(settings))
    return StreamedDataLoader(pool, 0, images.y_train, plan, settings.mean, settings.std, DEVICE, lambda: 0)


def plain(root: Path, settings: DatasetSettings, workers: int) -> DataLoader:
    """Return the same images by torchvision's ImageFolder."""
    transform = transforms.Compose(
        [
            transforms.RandomResizedCrop(settings.image_size),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(settings.mean, settings.std),
        ]
    )
    images = datasets.ImageFolder(str(root / "train"), transform)
    return DataLoader(images, BATCH, shuffle=True, num_workers=workers, persistent_workers=workers > 0)


def measure(arguments: Namespace) -> Iterator[Measurement]:
    """Yield the ratios of an epoch over the images, and the growth of the peak memory."""
    workers = 0 if PROCESSOR_TIME in os.environ else os.cpu_count() or 1
    keep_freed()  # as runs on a CPU do
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_imagenet(root, CLASSES, IMAGES, 1)
        settings = settings_of(root, CLASSES)
        paths = [str(path) for path in sorted((root / "train").rglob("*.JPEG"))]
        decoding = DataLoader(Decoded(paths), BATCH, num_workers=workers, persistent_workers=workers > 0)
        ours, theirs = streamed(settings, workers), plain(root, settings, workers)
        parts = {
            "ours": lambda: _iterate(ours),
            "images that are not normalised": lambda: _read(ours),  # all that workers do
            "plain": lambda: _iterate(theirs),
            "decoding": lambda: list(decoding),
        }
        seconds = interleave(parts, arguments.rounds or 10)
        ours.pool.close()
    count = CLASSES * IMAGES
    for name, values in seconds.items():
        yield Measurement(f"data: {name}, {workers} workers", [count / value for value in values], unit=" images/s")
    yield ratio("data: time of ours / plain ImageFolder", seconds["ours"], seconds["plain"], at_most=1 / 1.5)
    yield ratio("data: time of ours / decoding alone", seconds["ours"], seconds["decoding"], at_most=1 / 0.8)
    reading = seconds["images that are not normalised"]
    yield ratio("data: time of images that are not normalised / decoding alone", reading, seconds["decoding"])
    yield from _memory(workers)


def _read(loader: StreamedDataLoader) -> None:
    for _ in loader.pool.read(loader.requests(0)):
        pass


def _iterate(batches: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> None:
    for images, labels in batches:
        images.to(DEVICE), labels.to(DEVICE)


def _memory(workers: int) -> Iterator[Measurement]:
    """Yield the peak memory of processes that stream data sets of `COUNTS` images, most of which are links."""
    peaks = []
    for count in COUNTS:
        with tempfile.TemporaryDirectory() as folder:
            write_imagenet(Path(folder), 100, 1, 1, count // 100 - 1, side=64)
            command = [sys.executable, "-m", "benchmarks.data", folder, "100", str(workers)]
            peaks.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    names = ("main process", "a worker process")
    for name, few, many in zip(names, *peaks, strict=True):
        if few:
            what = f"data: peak memory of {COUNTS[1]:,} / {COUNTS[0]:,} images, {name}"
            yield ratio(what, [many], [few], at_most=1.05)


def peaks(root: Path, classes: int, workers: int) -> list[int]:
    """Stream the first batches of an epoch, and return the peak memory in bytes of this process and of a worker."""
    loader = streamed(settings_of(root, classes, image_size=32, resize=32), workers)
    for _, _ in zip(range(12), loader, strict=False):
        pass
    status = [Path(f"/proc/{process.pid}/status").read_text() for process in loader.pool.processes]
    workers_peaks = [1024 * int(text.partition("VmHWM:")[2].split()[0]) for text in status]
    loader.pool.close()
    return [1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, max(workers_peaks, default=0)]


if __name__ == "__main__":
    print(json.dumps(peaks(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))))
