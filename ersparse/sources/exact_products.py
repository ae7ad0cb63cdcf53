"""Products on a GPU in full float32, by deterministic algorithms, for scores that decide masks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.backends import cudnn


@contextmanager
def exact_products() -> Iterator[None]:
    """Forbid TF32, and ask cuDNN for deterministic algorithms, during the `with` block."""
    precision, before = torch.get_float32_matmul_precision(), (cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark)
    torch.set_float32_matmul_precision("highest")
    cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark = False, True, False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(precision)
        cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark = before
