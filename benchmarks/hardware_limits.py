"""What this machine can do at best: the rates that floors are computed from, measured here and now."""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path

import numpy as np
import torch

from benchmarks.interleaved import seconds_of
from ersparse.storage.provenance import machine

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def name() -> str:
    return f"{machine(DEVICE.type == 'cuda')}, Python {platform.python_version()}, torch {torch.__version__}"


@cache
def bandwidth() -> float:
    """Bytes a second, read and written together, of a copy that no cache holds."""
    there = torch.ones(1 << 26, device=DEVICE)
    copy = torch.empty_like(there)
    return 2 * there.nbytes / min(seconds_of(lambda: copy.copy_(there)) for _ in range(5))


@cache
def arithmetic(dtype: torch.dtype) -> float:
    """Operations a second of a large matrix product, a multiplication and an addition being two."""
    size = 8192 if DEVICE.type == "cuda" else 2048
    matrix = torch.randn(size, size, device=DEVICE, dtype=dtype)
    return 2 * size**3 / min(seconds_of(lambda: matrix @ matrix) for _ in range(5))


@cache
def random_numbers() -> float:
    """Uniform double-precision numbers a second, by numpy."""
    random = np.random.default_rng(0)
    return (1 << 22) / min(seconds_of(lambda: random.random(1 << 22)) for _ in range(5))


def writing(folder: Path, count: int) -> float:
    """Seconds to write as many bytes to a file there, to the disk."""
    data = np.random.default_rng(0).bytes(count)

    def write() -> None:
        with (folder / "floor").open("wb") as file:
            file.write(data)

    return min(seconds_of(write) for _ in range(3))
