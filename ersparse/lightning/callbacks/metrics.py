"""Metrics of each epoch, and progress and throughput of a run. Only rank 0 writes."""

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
    """Records all logged metrics at the end of every training epoch, and writes metrics.csv.

    The rows are part of the checkpoint, so that metrics.csv has each epoch once after a resume.

    Args:
        path: path of metrics.csv; None keeps the rows in memory only.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.rows: list[EpochMetrics] = []

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        metrics = {key: float(value) for key, value in sorted(trainer.callback_metrics.items())}
        self.rows.append({"epoch": trainer.current_epoch, **metrics})
        if trainer.is_global_zero and self.path:
            write_text(self.path, self.csv())

    def csv(self) -> str:
        """Return the rows as CSV, with a header."""
        columns = list(self.rows[0])
        lines = [",".join(columns), *(",".join(repr(row[column]) for column in columns) for row in self.rows)]
        return "\n".join(lines) + "\n"

    def summary(self) -> dict[str, float | None]:
        """Return the metrics of the last epoch, and the test accuracy of selected epochs.

        Returns:
            The last row; `test/acc_at_best_val`, the test accuracy at the best validation epoch, or None without a
            validation split; and `test/acc_best`, the best test accuracy.
        """
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
    """Reports the start of the fit and every finished epoch on rank 0, and measures the training throughput.

    Args:
        started: called with the Trainer and the module when the fit starts.
        update: called with the number of finished epochs at the end of every training epoch.

    Attributes:
        epochs: (number of images, seconds of the training loop) of each epoch of this process.
        fit_s: seconds of all epochs, evaluation included, also before a resume.
    """

    def __init__(self, started: Callable[[pl.LightningModule], None], update: Callable[[int], None]) -> None:
        self.started, self.update = started, update
        self.epochs: list[tuple[int, float]] = []
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
        """Return training images per second of the training loop; None before the first epoch.

        Evaluation does not count, nor does the first epoch of this process if there are more.
        """
        measured = self.epochs[1:] or self.epochs
        return sum(n for n, _ in measured) / sum(s for _, s in measured) if measured else None

    def state_dict(self) -> dict[str, Any]:
        return {"fit_s": self.fit_s}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.fit_s = state_dict["fit_s"]
