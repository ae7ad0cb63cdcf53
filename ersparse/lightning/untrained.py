"""The LightningModule of a network that is evaluated without training."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from ersparse.lightning.classifier import Classifier


class Untrained(Classifier):
    """Runs one epoch without an optimizer step, to evaluate a network that is not trained.

    Args:
        *arguments: arguments of `Classifier`.
        recalibrate: estimate BatchNorm's running statistics anew, as cumulative averages over all training batches.
    """

    def __init__(self, *arguments: Any, recalibrate: bool) -> None:
        super().__init__(*arguments)
        self.recalibrate = recalibrate
        self.normalisations = [module for module in self.network.modules() if isinstance(module, _BatchNorm)]
        for module in self.normalisations if recalibrate else ():
            module.reset_running_stats()

    def setup(self, stage: str) -> None:
        """Optimize manually, that is, never, on several ranks, where Lightning requires a loss otherwise."""
        self.automatic_optimization = self.trainer.world_size == 1

    def on_train_epoch_start(self) -> None:
        """Set BatchNorm to training mode only if its statistics are estimated."""
        self.network.train(self.recalibrate)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> None:  # type: ignore[override]
        """Update the metrics, and BatchNorm's statistics, and return no loss.

        The cumulative average of n batches is a moving average of momentum 1 / n. With `momentum=None`, BatchNorm would
        read n from the device in every layer.
        """
        for module in self.normalisations if self.recalibrate else ():
            module.momentum = 1 / (batch_index + 1)
        x, y = batch
        with torch.no_grad():
            self.metrics.update_accuracy_and_loss("train", *self._logits_and_loss(x, y), y)
