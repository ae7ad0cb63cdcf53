"""Tiny ImageNet from <root>/tiny_imagenet.npz: 64x64 images, the official validation set as the test set."""

from __future__ import annotations

from pathlib import Path

from ersparse.data.arrays import Arrays, read_npz
from ersparse.errors import UserError


def load(root: Path, download: bool) -> Arrays:
    """The npz file.

    Raises:
        UserError: it is not there. Making it from the official zip is not built yet.
    """
    path = root / "tiny_imagenet.npz"
    if not path.exists():
        raise UserError(
            f"dataset.root={root}: no {path.absolute()}; put one there (x_train uint8 [N, 64, 64, 3], y_train, x_test, "
            "y_test), or set ERSPARSE_DATA to where it is; method=draw needs no images"
        )
    return read_npz(path)
