"""How often a training step waits for the GPU, by PyTorch's own count of synchronising operations."""

from __future__ import annotations

import warnings
from typing import Any

import pytorch_lightning as pl
import torch

FIRST = 5  # steps before these choose algorithms and allocate memory
COUNT = 10  # steps that are counted


class CountWaits(pl.Callback):
    """Counts the warnings of `torch.cuda.set_sync_debug_mode` in some training steps.

    Attributes:
        waits: number of waits of each counted step; empty on a CPU.
    """

    def __init__(self) -> None:
        self.waits: list[int] = []
        self.recorder: Any = None

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if pl_module.device.type == "cuda" and FIRST <= trainer.global_step < FIRST + COUNT:
            self.recorder = warnings.catch_warnings(record=True)
            self.caught = self.recorder.__enter__()
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.recorder:
            torch.cuda.set_sync_debug_mode("default")
            self.recorder.__exit__(None, None, None)
            self.waits.append(sum("synchronizing" in str(warning.message) for warning in self.caught))
            self.recorder = None
