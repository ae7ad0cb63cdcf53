"""What the comparisons of `python -m benchmarks.sparse` share: interleaved steps, and the table of their medians."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.interleaved import interleave

STORAGE_DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}
Step = Callable[[], Any]


def print_comparison(title: str, steps: dict[str, Step], rounds: int) -> None:
    """Print the median time of each step, and its speed-up over the faster dense one."""
    medians = {name: statistics.median(seconds) for name, seconds in interleave(steps, rounds).items()}
    dense = min(medians["dense f32"], medians["dense bf16"])
    print(title)
    for name, seconds in medians.items():
        print(f"  {name:28}{1e3 * seconds:9.1f} ms {dense / seconds:7.2f} x", flush=True)
