"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009), from an npz file that is made once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from filelock import FileLock

from ersparse.data.arrays import Arrays, read_npz
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
            root.mkdir(parents=True, exist_ok=True)
            with FileLock(root / f".{name}.lock"):
                if not path.exists():
                    _make(path, torchvision_name)
        except (OSError, RuntimeError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UserError(f"dataset.root={root}: no {path.absolute()}, and no download ({reason}); {ways}") from None
    return read_npz(path)


def _make(path: Path, torchvision_name: str) -> None:
    from torchvision import datasets

    parts = [
        getattr(datasets, torchvision_name)(str(path.parent), train=train, download=True) for train in (True, False)
    ]
    arrays = {
        "x_train": parts[0].data,
        "y_train": np.array(parts[0].targets, np.int64),
        "x_test": parts[1].data,
        "y_test": np.array(parts[1].targets, np.int64),
    }
    partial = path.with_suffix(".partial.npz")
    np.savez(partial, **arrays)
    partial.replace(path)
