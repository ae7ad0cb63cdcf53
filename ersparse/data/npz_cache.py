"""Data sets cached as npz files: created once by one process, and read by all runs of a machine."""

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

ARRAY_NAMES = ("x_train", "y_train", "x_test", "y_test")
MMAP_THRESHOLD = 1 << 28  # bytes; larger arrays are memory-mapped, so that runs of one machine share their pages
CHUNK = 1 << 24  # bytes that are read at a time
LOCAL_HEADER_SIZE = 30  # bytes of a zip member's header, before its name and an extra field of variable length


def make_once(path: Path, make: Callable[[], dict[str, np.ndarray]]) -> None:
    """Write the arrays that `make` returns to `path`, atomically.

    If several processes call this at once, one of them runs `make` and the others wait for it.

    Raises:
        OSError: the file cannot be written.
    """
    partial, before = path.with_suffix(".partial.npz"), _modification_time(path)
    with exclusive(path.with_name(f".{path.stem}.lock"), product=path):
        try:
            if _modification_time(path) == before:
                np.savez(partial, allow_pickle=False, **make())
                partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


def _modification_time(path: Path) -> int | None:
    return os.stat(path).st_mtime_ns if path.exists() else None


def read_npz(path: Path) -> Arrays:
    """Read the four arrays of an npz file and verify their checksums; large uncompressed arrays are memory-mapped.

    Raises:
        UserError: the file is damaged, or lacks an array.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            if missing := [name for name in ARRAY_NAMES if name not in members]:
                raise UserError(f"{path}: has no {missing[0]}; must hold {', '.join(ARRAY_NAMES)}")
            arrays = [_read_array(path, archive, members[name]) for name in ARRAY_NAMES]
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: damaged or not an npz file ({error}); remove it to have it made anew") from None
    return Arrays(*(_to_tensor(path, name, array) for name, array in zip(ARRAY_NAMES, arrays, strict=True)))


def read_source(path: Path) -> str | None:
    """Return the entry `source` of an npz file, which names what it was made from; None if there is none."""
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:  # closed if it is damaged, too
            return str(file["source"])
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, EOFError):
        return None


def _read_array(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    if info.compress_type != zipfile.ZIP_STORED or info.file_size < MMAP_THRESHOLD:
        with archive.open(info) as file:
            return np.ascontiguousarray(np.lib.format.read_array(file, allow_pickle=False))
    with archive.open(info) as file:  # zipfile verifies the checksum at the end; the pages are then cached for mmap
        while file.read(CHUNK):
            pass
    return _map_array(path, info.header_offset)


def _map_array(path: Path, header_offset: int) -> np.ndarray:
    """Memory-map an uncompressed member of a zip file, whose local header begins at `header_offset`."""
    with path.open("rb") as file:
        file.seek(header_offset + LOCAL_HEADER_SIZE - 4)
        name_length, extra_length = np.frombuffer(file.read(4), "<u2")
        file.seek(header_offset + LOCAL_HEADER_SIZE + int(name_length) + int(extra_length))
        version = np.lib.format.read_magic(file)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, is_fortran, dtype = read_header(file)
        order: Literal["F", "C"] = "F" if is_fortran else "C"
        return np.memmap(path, dtype, "c", file.tell(), shape, order)  # copy-on-write: torch requires writable memory


def _to_tensor(path: Path, name: str, array: np.ndarray) -> Tensor:
    """Convert labels of any integer type to int64; other arrays keep their type, which `Arrays.check` validates."""
    if name.startswith("y") and array.dtype.kind in "ui":
        array = array.astype(np.int64)
    try:
        return torch.from_numpy(array)
    except (TypeError, ValueError):
        raise UserError(f"{path}: {name} is {array.dtype}, must be numbers of this machine's byte order") from None
