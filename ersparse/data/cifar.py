"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009), cached as one npz file each."""

from __future__ import annotations

import logging
import tempfile
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ersparse.data.arrays import Arrays
from ersparse.data.npz_cache import ARRAY_NAMES, make_once, read_npz
from ersparse.errors import UserError

log = logging.getLogger("ersparse")


def load_cifar10(root: Path, download: bool) -> Arrays:
    """Load CIFAR-10: 50 000 training and 10 000 test images of 32x32 pixels in 10 classes.

    They are read from the first of these that exists; what is not the npz file is then cached as one.

    1. <root>/cifar10.npz
    2. torchvision's folder <root>/cifar-10-batches-py, which can be <root> itself
    3. the archive <root>/cifar-10-python.tar.gz
    4. the download

    Where the npz file cannot be written, images that lie in <root> are read from there each time.

    Args:
        root: folder of the data set.
        download: fetch the data set by torchvision if it is not in `root`.

    Raises:
        UserError: the data set is missing and cannot be downloaded, or it is damaged.
    """
    return _load("cifar10", "CIFAR10", root, download)


def load_cifar100(root: Path, download: bool) -> Arrays:
    """Load CIFAR-100: 50 000 training and 10 000 test images of 32x32 pixels in 100 classes.

    They are read as those of CIFAR-10 are, from cifar100.npz, cifar-100-python or cifar-100-python.tar.gz.

    Args:
        root: folder of the data set.
        download: fetch the data set by torchvision if it is not in `root`.

    Raises:
        UserError: the data set is missing and cannot be downloaded, or it is damaged.
    """
    return _load("cifar100", "CIFAR100", root, download)


def _load(name: str, torchvision_name: str, root: Path, download: bool) -> Arrays:
    """Read <root>/<name>.npz; if it is missing, create it from torchvision's files or its verified download."""
    path = root / f"{name}.npz"
    if path.exists():
        return read_npz(path)
    from torchvision import datasets  # takes a second to import

    dataset = getattr(datasets, torchvision_name)
    local, damaged = _read_local(dataset, root)
    arrays = local or _download_or_explain(dataset, path, download, damaged)
    try:
        make_once(path, lambda: arrays)
    except OSError as error:
        if local is None:
            raise UserError(f"dataset.root={root}: {path.absolute()} cannot be written ({error.strerror})") from None
        log.info(f"{path.absolute()} cannot be written ({error.strerror}); images are read from {root} each time")
        return Arrays(*(torch.from_numpy(arrays[key]) for key in ARRAY_NAMES))
    return read_npz(path)


def _download_or_explain(dataset: Any, path: Path, download: bool, damaged: str | None) -> dict[str, np.ndarray]:
    """Download the data set.

    Args:
        dataset: torchvision's class.
        path: of the npz file that is missing.
        download: whether to.
        damaged: what is wrong with the files that were found, if any were.

    Raises:
        UserError: the data set is not to be downloaded, or cannot be.
    """
    where = f"dataset.root={path.parent}: {damaged or f'no {path.absolute()}'}"
    remedies = (
        f"put {path.name} there, or torchvision's {dataset.base_folder} (ERSPARSE_DATA names the folder), "
        "or run once with a network and dataset.download=true"
    )
    if not download:
        raise UserError(f"{where}; {remedies}")
    try:
        return _download(dataset)
    except (OSError, RuntimeError, HTTPException) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{where}, and no download ({reason}); {remedies}") from None


def _read_local(dataset: Any, root: Path) -> tuple[dict[str, np.ndarray] | None, str | None]:
    """Read torchvision's folder, or the archive that it was unpacked from, if `root` has one.

    Args:
        dataset: torchvision's class.
        root: folder that has it.

    Returns:
        The arrays, or None if there are none; and what is wrong with those that are there.
    """
    from torchvision.datasets.utils import check_integrity

    absolute, damaged = root.absolute(), None
    for parent in (absolute, absolute.parent):
        folder = parent / dataset.base_folder
        if folder.is_dir() and (parent == absolute or folder == absolute):
            try:
                return _arrays(dataset, parent, False), None
            except (OSError, RuntimeError):
                damaged = f"{folder} is incomplete or damaged"
    archive = absolute / dataset.filename
    if archive.is_file():
        if check_integrity(str(archive), dataset.tgz_md5):
            return _download(dataset, archive), None
        damaged = damaged or f"{archive} is incomplete or damaged"
    return None, damaged


def _download(dataset: Any, archive: Path | None = None) -> dict[str, np.ndarray]:
    """Download into a temporary folder, or unpack there the archive that was downloaded before."""
    with tempfile.TemporaryDirectory() as temporary:
        if archive:
            (Path(temporary) / archive.name).symlink_to(archive)
        return _arrays(dataset, Path(temporary), True)


def _arrays(dataset: Any, folder: Path, download: bool) -> dict[str, np.ndarray]:
    """Read both parts of the data set from the folder that torchvision calls its root."""
    train, test = (dataset(str(folder), train=part, download=download) for part in (True, False))
    return {
        "x_train": np.ascontiguousarray(train.data),
        "y_train": np.array(train.targets, np.int64),
        "x_test": np.ascontiguousarray(test.data),
        "y_test": np.array(test.targets, np.int64),
    }
