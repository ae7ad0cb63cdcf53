"""The LightningModule: a network that classifies images."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MeanMetric, Metric
from torchmetrics.classification import MulticlassAccuracy

from ersparse.lightning.hardware import memory_format
from ersparse.lightning.ranks import mean_over_ranks
from ersparse.settings import Optimizer


class Classifier(pl.LightningModule):
    """Cross-entropy training of `network`, with accuracy and loss on training, test and validation images.

    Args:
        network: [B, C, side, side] -> logits [B, num_classes].
        num_classes: of the data.
        optimizer: its settings; milestones are fractions of `epochs`.
        epochs: of the whole run.
        eval_names: of the validation loop's dataloaders, in their order.
    """

    def __init__(
        self,
        network: nn.Module,
        num_classes: int,
        optimizer: Optimizer,
        epochs: int,
        eval_names: list[str],
    ) -> None:
        super().__init__()
        self.memory_format = memory_format(network)
        self.network = network.to(memory_format=self.memory_format)
        self.optimizer_settings, self.epochs, self.eval_names = optimizer, epochs, eval_names
        self.metrics = nn.ModuleDict()
        for name in ["train", *eval_names]:
            self.metrics[f"{name}/acc"] = MulticlassAccuracy(num_classes, average="micro")
            self.metrics[f"{name}/loss"] = MeanMetric()

    def forward(self, x: Tensor) -> Tensor:
        if self.memory_format == torch.channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        else:  # a copy: with one channel `contiguous` leaves strides that convolutions take for channels-last
            x = x.clone(memory_format=torch.contiguous_format)
        logits: Tensor = self.network(x)
        return logits

    def training_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> Tensor:
        return mean_over_ranks(self._step("train", batch), len(batch[1]))

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_index: int, dataloader_idx: int = 0) -> None:
        self._step(self.eval_names[dataloader_idx], batch)

    def _step(self, name: str, batch: tuple[Tensor, Tensor]) -> Tensor:
        x, y = batch
        logits = self(x)
        loss = F.cross_entropy(logits, y)
        self._metric(f"{name}/loss").update(loss.detach(), len(y))
        self._metric(f"{name}/acc").update(logits.detach(), y)
        return loss

    def on_validation_epoch_end(self) -> None:
        """Logs everything that this epoch measured: Lightning evaluates at the end of each training epoch."""
        for name in self.metrics:
            metric = self._metric(name)
            self.log(name, metric.compute())
            metric.reset()

    def _metric(self, name: str) -> Metric:
        metric = self.metrics[name]
        assert isinstance(metric, Metric)
        return metric

    def configure_optimizers(self) -> Any:
        s = self.optimizer_settings
        kinds: dict[str, Any] = {
            "sgd": lambda: torch.optim.SGD(
                self.network.parameters(),
                s.lr,
                s.momentum,
                weight_decay=s.weight_decay,
                nesterov=s.nesterov,
                fused=True,
            ),
            "adam": lambda: torch.optim.Adam(self.network.parameters(), s.lr, weight_decay=s.weight_decay, fused=True),
        }
        optimizer = kinds[s.name]()
        # at least 1: a milestone at epoch 0 would cut lr from the start
        milestones = [max(1, round(fraction * self.epochs)) for fraction in s.milestones]
        schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones, s.gamma)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "epoch"}}
