"""Peak rates of this machine, measured in the same run, from which the floors of measurements are computed."""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path

import numpy as np
import torch

from benchmarks.interleaved import seconds_of
from ersparse.storage.provenance import machine

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def machine_name() -> str:
    """Return the processor or GPU and the versions of Python and torch."""
    return f"{machine(DEVICE.type == 'cuda')}, Python {platform.python_version()}, torch {torch.__version__}"


@cache
def memory_bandwidth() -> float:
    """Return bytes per second, read and written together, of a copy that exceeds all caches."""
    source = torch.ones(1 << 26, device=DEVICE)
    copy = torch.empty_like(source)
    return 2 * source.nbytes / min(seconds_of(lambda: copy.copy_(source)) for _ in range(5))


@cache
def peak_flops(dtype: torch.dtype) -> float:
    """Return FLOP/s of a large matrix product, where a multiplication and an addition count as two."""
    size = 8192 if DEVICE.type == "cuda" else 2048
    matrix = torch.randn(size, size, device=DEVICE, dtype=dtype)
    return 2 * size**3 / min(seconds_of(lambda: matrix @ matrix) for _ in range(5))


@cache
def random_number_rate() -> float:
    """Return uniform double-precision random numbers per second, by NumPy."""
    random = np.random.default_rng(0)
    return (1 << 22) / min(seconds_of(lambda: random.random(1 << 22)) for _ in range(5))


def write_seconds(folder: Path, count: int) -> float:
    """Return the seconds to write a file of `count` bytes in `folder`."""
    data = np.random.default_rng(0).bytes(count)

    def write() -> None:
        with (folder / "floor").open("wb") as file:
            file.write(data)

    return min(seconds_of(write) for _ in range(3))
