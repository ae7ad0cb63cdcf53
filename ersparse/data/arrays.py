"""A data set as four arrays, checked once."""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ersparse.errors import UserError


@dataclass(frozen=True)
class Arrays:
    """Images uint8 [N, H, W, C] and labels int64 [N], for training and for testing."""

    x_train: Tensor
    y_train: Tensor
    x_test: Tensor
    y_test: Tensor

    def resized(self, side: int) -> Arrays:
        """The same images with `side` x `side` pixels (bilinear, antialiased)."""
        return Arrays(_resize(self.x_train, side), self.y_train, _resize(self.x_test, side), self.y_test)

    def check(self, where: str, num_classes: int, channels: int) -> Arrays:
        """Itself, if it holds what it should.

        Raises:
            UserError: one line that begins with `where` and names the array and what was expected of it.
        """
        for part in ("train", "test"):
            x, y = getattr(self, f"x_{part}"), getattr(self, f"y_{part}")
            if (
                x.dtype != torch.uint8
                or x.dim() != 4
                or x.shape[3] != channels
                or x.shape[1] != x.shape[2]
                or not len(x)
            ):
                raise UserError(
                    f"{where}: x_{part} is {x.dtype} {list(x.shape)}, must be uint8 [N, side, side, {channels}]"
                )
            if y.dtype != torch.int64 or y.shape != x.shape[:1]:
                raise UserError(f"{where}: y_{part} is {y.dtype} {list(y.shape)}, must be int64 [{len(x)}]")
            if y.min() < 0 or y.max() >= num_classes:
                raise UserError(f"{where}: y_{part} has labels {y.min()}..{y.max()}, must lie in [0, {num_classes})")
        return self


def read_npz(path: Path) -> Arrays:
    """The four arrays of an npz file.

    Raises:
        UserError: the file is damaged, or lacks an array.
    """
    names = ("x_train", "y_train", "x_test", "y_test")
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            if missing := [name for name in names if name not in file]:
                raise UserError(f"{path}: has no {missing[0]}; must hold {', '.join(names)}")
            read = [np.ascontiguousarray(file[name]) for name in names]
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: damaged or not an npz file ({error}); remove it to have it made anew") from None
    return Arrays(*(_tensor(path, name, array) for name, array in zip(names, read, strict=True)))


def _tensor(path: Path, name: str, array: np.ndarray) -> Tensor:
    """Labels of any integer type become int64; everything else stays, for `Arrays.check` to judge."""
    if name.startswith("y") and array.dtype.kind in "ui":
        array = array.astype(np.int64)
    try:
        return torch.from_numpy(array)
    except (TypeError, ValueError):
        raise UserError(f"{path}: {name} is {array.dtype}, must be numbers of this machine's byte order") from None


def _resize(images: Tensor, side: int) -> Tensor:
    if images.shape[1] == side:
        return images
    planes = images.permute(0, 3, 1, 2).float()
    resized = F.interpolate(planes, size=(side, side), mode="bilinear", antialias=True)
    return resized.round().clamp(0, 255).byte().permute(0, 2, 3, 1).contiguous()
