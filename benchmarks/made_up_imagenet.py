"""A made-up ImageNet: JPEG files of ImageNet's sizes in 1 000 classes, or in fewer.

    python -m benchmarks.made_up_imagenet FOLDER [--classes 1000] [--train 4] [--val 1] [--links 0] [--side 500]

FOLDER gets train/<wnid>/ and val/<wnid>/. Images are smooth colours with noise, so that a file takes about 110 KB, as
the mean of ImageNet does, and takes about as long to decode. With `--links N`, each class has N more training images
that are symbolic links to its first: a data set of many images that takes little space.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

SIZES = ((1.0, 0.75), (0.75, 1.0), (1.0, 0.67), (0.67, 1.0), (1.0, 1.0))  # width and height, as parts of the longer


def write_image(path: Path, seed: int, side: int) -> None:
    random = np.random.default_rng(seed)
    width, height = (round(side * part) for part in SIZES[seed % len(SIZES)])
    smooth = Image.fromarray(random.integers(0, 256, (12, 16, 3), np.uint8)).resize((width, height), Image.BICUBIC)
    pixels = np.asarray(smooth) + random.normal(0, 16, (height, width, 3))
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, quality=88)


def write_imagenet(root: Path, classes: int, train: int, val: int, links: int = 0, side: int = 500) -> None:
    """Write `train` and `val` images of each class, and `links` links to the first training image of each."""
    for number in range(classes):
        for part, count in (("train", train), ("val", val)):
            folder = root / part / f"n{10_000_000 + number}"
            folder.mkdir(parents=True, exist_ok=True)
            for image in range(count):
                write_image(folder / f"{folder.name}_{image}.JPEG", number * (train + val) + image, side)
        first = root / "train" / f"n{10_000_000 + number}" / f"n{10_000_000 + number}_0.JPEG"
        for image in range(links):
            first.with_name(f"{first.stem}_link{image}.JPEG").symlink_to(first.name)


def main() -> None:
    parser = argparse.ArgumentParser("made_up_imagenet", description=__doc__)
    parser.add_argument("folder", type=Path)
    for name, default in (("classes", 1000), ("train", 4), ("val", 1), ("links", 0), ("side", 500)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    write_imagenet(options.folder, options.classes, options.train, options.val, options.links, options.side)


if __name__ == "__main__":
    main()
