"""What is kept of a run while it goes on: metrics, the state of run.json, checkpoints. Rank 0 alone writes."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from ersparse.storage.atomic import write_text

EpochMetrics = dict[str, float]


class MetricsHistory(pl.Callback):
    """One row of figures for each epoch, kept in the checkpoint, so that each epoch is there once after a resume."""

    def __init__(self, path: Path | None) -> None:
        """`path` of metrics.csv; None keeps the rows in memory only."""
        self.path = path
        self.rows: list[EpochMetrics] = []

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        figures = {key: float(value) for key, value in sorted(trainer.callback_metrics.items())}
        self.rows.append({"epoch": trainer.current_epoch, **figures})
        if trainer.is_global_zero and self.path:
            write_text(self.path, self.csv())

    def csv(self) -> str:
        columns = list(self.rows[0])
        lines = [",".join(columns), *(",".join(repr(row[column]) for column in columns) for row in self.rows)]
        return "\n".join(lines) + "\n"

    def summary(self) -> dict[str, float | None]:
        """The last epoch's figures, and those at the best test and the best validation epoch."""
        last = {key: value for key, value in self.rows[-1].items() if key != "epoch"}
        best = max(self.rows, key=lambda row: row["test/acc"])
        chosen = max(self.rows, key=lambda row: row["val/acc"]) if "val/acc" in last else None
        return {
            **last,
            "test/acc_at_best_val": chosen["test/acc"] if chosen else None,
            "test/acc_best": best["test/acc"],
        }

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows = list(state_dict["rows"])


class ProgressRecorder(pl.Callback):
    """Tells `update` how far the run is, and measures how fast it trains.

    `images_per_s` is training images over training-loop time, without the first epoch of this process where there are
    more, and without evaluation.
    """

    def __init__(self, started: Callable[[pl.LightningModule], None], update: Callable[[int], None]) -> None:
        self.started, self.update = started, update
        self.epochs: list[tuple[int, float]] = []  # images, seconds
        self.fit_s = 0.0

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.is_global_zero:
            self.started(pl_module)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.start, self.images = time.perf_counter(), 0

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.images += len(batch[1]) * trainer.world_size
        if batch_idx + 1 == trainer.num_training_batches:
            if pl_module.device.type == "cuda":
                torch.cuda.synchronize()
            self.epochs.append((self.images, time.perf_counter() - self.start))

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.fit_s += time.perf_counter() - self.start
        if trainer.is_global_zero:
            self.update(trainer.current_epoch + 1)

    def images_per_s(self) -> float | None:
        measured = self.epochs[1:] or self.epochs
        return sum(n for n, _ in measured) / sum(s for _, s in measured) if measured else None

    def state_dict(self) -> dict[str, Any]:
        return {"fit_s": self.fit_s}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.fit_s = state_dict["fit_s"]
