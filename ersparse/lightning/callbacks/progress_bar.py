"""Progress bar over the epochs of a run."""

from __future__ import annotations

import logging
from typing import Any

import pytorch_lightning as pl
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

log = logging.getLogger(__name__)


class EpochProgressBar(pl.Callback):
    """Shows the epoch, its metrics and the remaining time: a progress bar on a terminal, otherwise ten log lines.

    The bar advances after every training batch, and its metrics change at the end of every training epoch. Without a
    terminal, about every tenth of the epochs is logged. Only rank 0 shows anything.

    Args:
        console: the console of the bar.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.progress: Progress | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not (trainer.is_global_zero and self.console.is_terminal and self.console.file.isatty()):
            return
        self.progress = Progress(
            TextColumn("epoch"),
            MofNCompleteColumn(),
            BarColumn(None),
            TextColumn("{task.fields[metrics]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self.console,
        )
        self.progress.start()
        self.task = self.progress.add_task("", total=trainer.max_epochs, completed=trainer.current_epoch, metrics="")

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
        metrics = f"loss {values['train/loss']:.3f}  test/acc {values['test/acc']:.4f}"
        line = f"epoch {epoch}/{epochs}  {metrics}"
        if self.progress:
            self.progress.update(self.task, completed=epoch, metrics=metrics)
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
