"""One line that moves: the epochs, the latest figures, and how long it will take."""

from __future__ import annotations

import logging
from typing import Any

import pytorch_lightning as pl
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

log = logging.getLogger(__name__)


class EpochProgressBar(pl.Callback):
    """A progress bar over the whole run on a terminal; elsewhere a plain line about every tenth epoch."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.progress: Progress | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not (trainer.is_global_zero and self.console.is_terminal):
            return
        self.progress = Progress(
            TextColumn("epoch"),
            MofNCompleteColumn(),
            BarColumn(None),
            TextColumn("{task.fields[figures]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self.console,
        )
        self.progress.start()
        self.task = self.progress.add_task("", total=trainer.max_epochs, completed=trainer.current_epoch, figures="")

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.progress:
            done = trainer.current_epoch + (batch_idx + 1) / trainer.num_training_batches
            self.progress.update(self.task, completed=int(done))

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        epoch, epochs = trainer.current_epoch + 1, trainer.max_epochs or 1
        values = trainer.callback_metrics
        figures = f"loss {values['train/loss']:.3f}  test/acc {values['test/acc']:.4f}"
        line = f"epoch {epoch}/{epochs}  {figures}"
        if self.progress:
            self.progress.update(self.task, completed=epoch, figures=figures)
            log.debug(line)
        elif epoch == epochs or epoch % max(1, epochs // 10) == 0:
            log.info(line)
        else:
            log.debug(line)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._stop()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._stop()

    def _stop(self) -> None:
        if self.progress:
            self.progress.stop()
            self.progress = None
