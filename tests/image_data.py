"""Small image data sets on disk, in the layouts that the data sets read."""

import json
import struct

import numpy as np
from PIL import Image
from scipy.io import savemat


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


def write_photographs(folder, names):
    """Write JPEG files of several sizes."""
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (24 + number, 30, 3), np.uint8)
        Image.fromarray(pixels).save(path)


def write_food101(root):
    """Write 6 training and 4 test images of two dishes."""
    names = {part: {dish: [f"{dish}/{part}{n}" for n in range(count)] for dish in ("ramen", "apple_pie")}
             for part, count in (("train", 3), ("test", 2))}  # fmt: skip
    (root / "food-101/meta").mkdir(parents=True)
    for part, dishes in names.items():
        (root / f"food-101/meta/{part}.json").write_text(json.dumps(dishes))
        write_photographs(root / "food-101/images", [f"{name}.jpg" for dish in dishes.values() for name in dish])


def write_flowers102(root):
    """Write 10 images of two flowers: 4 for training, 2 for validation, and 4 for testing."""
    write_photographs(root / "flowers-102/jpg", [f"image_{number:05}.jpg" for number in range(1, 11)])
    savemat(root / "flowers-102/imagelabels.mat", {"labels": np.arange(10) % 2 + 1})
    savemat(root / "flowers-102/setid.mat", {"trnid": [1, 2, 3, 4], "valid": [5, 6], "tstid": [7, 8, 9, 10]})


def write_dtd(root):
    """Write 4 training, 2 validation and 4 test images of two textures."""
    names = [f"{('woven', 'dotted')[number % 2]}/{number}.jpg" for number in range(10)]
    write_photographs(root / "dtd/dtd/images", names)
    (root / "dtd/dtd/labels").mkdir()
    for part, chosen in (("train", names[:4]), ("val", names[4:6]), ("test", names[6:])):
        (root / f"dtd/dtd/labels/{part}1.txt").write_text("\n".join(chosen))


def write_country211(root):
    """Write 4 training, 2 validation and 4 test images of two countries."""
    for part, count in (("train", 4), ("valid", 2), ("test", 4)):
        write_photographs(root / "country211" / part, [f"{('AD', 'ZW')[n % 2]}/{n}.jpg" for n in range(count)])


def write_imagenette(root):
    """Write 4 training and 4 test images of two classes."""
    for part in ("train", "val"):
        names = [f"{('n01440764', 'n03888257')[n % 2]}/{n}.JPEG" for n in range(4)]
        write_photographs(root / "imagenette2" / part, names)
