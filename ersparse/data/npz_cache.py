"""Data sets that are made once: one npz file beside what it is made from, read by every run of the machine."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ersparse.data.arrays import Arrays
from ersparse.errors import UserError
from ersparse.storage.locks import exclusive

NAMES = ("x_train", "y_train", "x_test", "y_test")
LARGE = 1 << 28  # bytes from which an array is mapped: what several runs of a machine read then lies there once


def make_once(path: Path, make: Callable[[], dict[str, np.ndarray]]) -> None:
    """Writes the arrays of `make` to `path`, whole; of several processes one makes it, and the others wait.

    Raises:
        OSError: it cannot be written.
    """
    partial, before = path.with_suffix(".partial.npz"), _stamp(path)
    with exclusive(path.with_name(f".{path.stem}.lock"), product=path):
        try:
            if _stamp(path) == before:
                np.savez(partial, allow_pickle=False, **make())
                partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


def _stamp(path: Path) -> int | None:
    return os.stat(path).st_mtime_ns if path.exists() else None


def read_npz(path: Path) -> Arrays:
    """The four arrays of an npz file, checked against its sums. Large ones are mapped, where they are not compressed.

    Raises:
        UserError: the file is damaged, or lacks an array.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            there = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            if missing := [name for name in NAMES if name not in there]:
                raise UserError(f"{path}: has no {missing[0]}; must hold {', '.join(NAMES)}")
            read = [_read(path, archive, there[name]) for name in NAMES]
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: damaged or not an npz file ({error}); remove it to have it made anew") from None
    return Arrays(*(_tensor(path, name, array) for name, array in zip(NAMES, read, strict=True)))


def _read(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    if info.compress_type != zipfile.ZIP_STORED or info.file_size < LARGE:
        with archive.open(info) as file:
            return np.ascontiguousarray(np.lib.format.read_array(file, allow_pickle=False))
    with archive.open(info) as file:  # to its end, since that compares its sum; it is then in memory for the mapping
        while file.read(1 << 24):
            pass
    with path.open("rb") as file:
        file.seek(info.header_offset + 26)
        name, extra = np.frombuffer(file.read(4), "<u2")  # the local header: 30 bytes, the name, an extra field
        file.seek(info.header_offset + 30 + int(name) + int(extra))
        version = np.lib.format.read_magic(file)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read_header(file)
        order: Literal["F", "C"] = "F" if fortran else "C"
        return np.memmap(path, dtype, "c", file.tell(), shape, order)  # "c": torch wants to be allowed to write


def source_of(path: Path) -> str | None:
    """What a cache says that it was made from; None where there is none, or where it does not say."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return str(file["source"])
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, EOFError):
        return None


def _tensor(path: Path, name: str, array: np.ndarray) -> Tensor:
    """Labels of any integer type become int64; everything else stays, for `Arrays.check` to judge."""
    if name.startswith("y") and array.dtype.kind in "ui":
        array = array.astype(np.int64)
    try:
        return torch.from_numpy(array)
    except (TypeError, ValueError):
        raise UserError(f"{path}: {name} is {array.dtype}, must be numbers of this machine's byte order") from None
