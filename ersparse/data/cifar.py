"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009), from an npz file that is made once."""

from __future__ import annotations

import tempfile
from http.client import HTTPException
from pathlib import Path

import numpy as np

from ersparse.data.arrays import Arrays
from ersparse.data.npz_cache import make_once, read_npz
from ersparse.errors import UserError


def load_cifar10(root: Path, download: bool) -> Arrays:
    return _load("cifar10", "CIFAR10", root, download)


def load_cifar100(root: Path, download: bool) -> Arrays:
    return _load("cifar100", "CIFAR100", root, download)


def _load(name: str, torchvision_name: str, root: Path, download: bool) -> Arrays:
    """<root>/<name>.npz if it is there; else torchvision's copy, downloaded and checked, and written there, whole.

    Raises:
        UserError: there is neither, or the file is not what it should be.
    """
    path = root / f"{name}.npz"
    if not path.exists():
        ways = (
            f"put {name}.npz there (or set ERSPARSE_DATA to where it is), "
            "or run once with a network and dataset.download=true"
        )
        if not download:
            raise UserError(f"dataset.root={root}: no {path.absolute()}; {ways}")
        try:
            arrays = _fetched(root, torchvision_name)
            make_once(path, lambda: arrays)
        except (OSError, RuntimeError, HTTPException) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UserError(f"dataset.root={root}: no {path.absolute()}, and no download ({reason}); {ways}") from None
    return read_npz(path)


def _fetched(root: Path, torchvision_name: str) -> dict[str, np.ndarray]:
    """From torchvision's own folder in `root` if it is there, else from a download that leaves nothing behind."""
    from torchvision import datasets

    kind = getattr(datasets, torchvision_name)
    with tempfile.TemporaryDirectory() as temporary:
        where = str(root) if (root / kind.base_folder).is_dir() else temporary
        train, test = (kind(where, train=part, download=True) for part in (True, False))
    return {
        "x_train": train.data,
        "y_train": np.array(train.targets, np.int64),
        "x_test": test.data,
        "y_test": np.array(test.targets, np.int64),
    }
