"""The network of the best validation epoch, and the end of a run that no longer improves."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
from torch import Tensor

from ersparse.lightning.classifier import Classifier

log = logging.getLogger("ersparse")

MONITORED = "val/acc"


class BestWeights(pl.Callback):
    """Writes the network after every epoch with a better validation accuracy than all before, on rank 0.

    Args:
        write: writes weights and masks; None on other ranks.
        patience: stops the run after so many epochs without a better one; None never does.

    Attributes:
        best: the best validation accuracy; None before the first epoch.
        epoch: its epoch, counted from 0.
        stopped: number of epochs after which the run was stopped, if it was.
    """

    def __init__(self, write: Callable[[dict[str, Tensor]], object] | None, patience: int | None) -> None:
        self.write, self.patience = write, patience
        self.best: float | None = None
        self.epoch = -1
        self.stopped: int | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Train no further epoch if the run was interrupted after it had been stopped."""
        trainer.should_stop = self.stopped is not None

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, Classifier)
        accuracy, epoch = float(trainer.callback_metrics[MONITORED]), trainer.current_epoch
        if self.best is None or accuracy > self.best:
            self.best, self.epoch = accuracy, epoch
            if self.write:
                self.write(pl_module.final_state())
        elif self.patience and epoch - self.epoch >= self.patience and epoch + 1 < (trainer.max_epochs or 0):
            self.stopped, trainer.should_stop = epoch + 1, True
            if self.write:
                log.info(
                    f"early stopping after epoch {epoch + 1} of {trainer.max_epochs}: validation accuracy "
                    f"{self.best:.4f} of epoch {self.epoch + 1} was not exceeded in {self.patience} epochs"
                )

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "epoch": self.epoch, "stopped": self.stopped}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best, self.epoch, self.stopped = (state_dict[key] for key in ("best", "epoch", "stopped"))
