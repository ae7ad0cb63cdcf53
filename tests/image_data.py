"""Small image data sets on disk, in the layouts that the data sets read."""

import struct

import numpy as np
from PIL import Image


def write_image_folder(root):
    """Write 20 training and 20 test images in two classes."""
    for number in range(40):
        folder = root / ("train", "test")[number % 2] / ("a", "b")[number % 4 // 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 9), (number, 0, 0)).save(folder / f"{number}.png")


def write_mnist(root, count=40, name="MNIST"):
    """Write `count` random training and test images in ten classes, as torchvision unpacks them; return the images."""
    images = np.random.default_rng(0).integers(0, 256, (2, count, 28, 28), np.uint8)
    folder = root / name / "raw"
    folder.mkdir(parents=True)
    for part, pixels in zip(("train", "t10k"), images, strict=True):
        header = struct.pack(">IIII", 0x803, count, 28, 28)
        (folder / f"{part}-images-idx3-ubyte").write_bytes(header + pixels.tobytes())
        labels = bytes(number % 10 for number in range(count))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 0x801, count) + labels)
    return images
