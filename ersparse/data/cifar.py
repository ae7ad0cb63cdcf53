"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009), cached as one npz file each."""

from __future__ import annotations

import tempfile
from http.client import HTTPException
from pathlib import Path

import numpy as np

from ersparse.data.arrays import Arrays
from ersparse.data.npz_cache import make_once, read_npz
from ersparse.errors import UserError


def load_cifar10(root: Path, download: bool) -> Arrays:
    """Load CIFAR-10: 50 000 training and 10 000 test images of 32x32 pixels in 10 classes.

    Args:
        root: folder of `cifar10.npz`.
        download: fetch the data set by torchvision if the file is missing.

    Raises:
        UserError: the file is missing and cannot be downloaded, or it is damaged.
    """
    return _load("cifar10", "CIFAR10", root, download)


def load_cifar100(root: Path, download: bool) -> Arrays:
    """Load CIFAR-100: 50 000 training and 10 000 test images of 32x32 pixels in 100 classes.

    Args:
        root: folder of `cifar100.npz`.
        download: fetch the data set by torchvision if the file is missing.

    Raises:
        UserError: the file is missing and cannot be downloaded, or it is damaged.
    """
    return _load("cifar100", "CIFAR100", root, download)


def _load(name: str, torchvision_name: str, root: Path, download: bool) -> Arrays:
    """Read <root>/<name>.npz; if it is missing, create it from torchvision's verified download."""
    path = root / f"{name}.npz"
    if not path.exists():
        remedies = (
            f"put {name}.npz there (or set ERSPARSE_DATA to where it is), "
            "or run once with a network and dataset.download=true"
        )
        if not download:
            raise UserError(f"dataset.root={root}: no {path.absolute()}; {remedies}")
        try:
            arrays = _download(root, torchvision_name)
            make_once(path, lambda: arrays)
        except (OSError, RuntimeError, HTTPException) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UserError(
                f"dataset.root={root}: no {path.absolute()}, and no download ({reason}); {remedies}"
            ) from None
    return read_npz(path)


def _download(root: Path, torchvision_name: str) -> dict[str, np.ndarray]:
    """Read torchvision's own folder in `root` if it exists; otherwise download into a temporary folder."""
    from torchvision import datasets

    dataset = getattr(datasets, torchvision_name)
    with tempfile.TemporaryDirectory() as temporary:
        folder = str(root) if (root / dataset.base_folder).is_dir() else temporary
        train, test = (dataset(folder, train=part, download=True) for part in (True, False))
    return {
        "x_train": train.data,
        "y_train": np.array(train.targets, np.int64),
        "x_test": test.data,
        "y_test": np.array(test.targets, np.int64),
    }
