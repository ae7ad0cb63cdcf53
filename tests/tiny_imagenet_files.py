"""A small Tiny ImageNet in its official form, as a zip file or a folder."""

import io
import zipfile

import numpy as np
from PIL import Image

CLASSES = ["n02", "n01"]  # not sorted, as in the official file
TOP = "tiny-imagenet-200"


def jpeg(seed, mode="RGB", side=64):
    random = np.random.default_rng(seed)
    smooth = np.kron(random.integers(0, 256, (side // 16, side // 16, 3)), np.ones((16, 16, 1))).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(smooth).convert(mode).save(stream, "JPEG")
    return stream.getvalue()


def files(**changes):
    """Return two classes with three training images each, the last one grayscale, and four validation images."""
    made = {"wnids.txt": "\n".join(CLASSES).encode(), "words.txt": b""}
    for c, wnid in enumerate(CLASSES):
        for i in range(3):
            made[f"train/{wnid}/images/{wnid}_{i}.JPEG"] = jpeg(10 * c + i, "L" if i == 2 else "RGB")
        made[f"train/{wnid}/{wnid}_boxes.txt"] = b""
    made |= {f"val/images/val_{i}.JPEG": jpeg(100 + i) for i in range(4)}
    rows = [f"val_{i}.JPEG\t{CLASSES[i % 2]}\t0\t0\t9\t9" for i in range(4)]
    made["val/val_annotations.txt"] = "\n".join(rows).encode()
    return {name: data for name, data in (made | changes).items() if data is not None}


def as_zip(root, **changes):
    with zipfile.ZipFile(root / f"{TOP}.zip", "w") as archive:
        for name, data in files(**changes).items():
            archive.writestr(f"{TOP}/{name}", data)
    return root


def as_folder(root):
    for name, data in files().items():
        path = root / TOP / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root
