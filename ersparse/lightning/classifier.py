"""The LightningModule: a network that classifies images."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

from ersparse.lightning.hardware import memory_format
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
        names = ["train", *eval_names]
        self.accuracy = nn.ModuleDict({f"{name}_": MulticlassAccuracy(num_classes, average="micro") for name in names})
        self.loss = nn.ModuleDict({f"{name}_": MeanMetric() for name in names})

    def forward(self, x: Tensor) -> Tensor:
        if self.memory_format == torch.channels_last:
            return self.network(x.contiguous(memory_format=torch.channels_last))
        # A copy: with one channel `contiguous` leaves strides that convolutions take for channels-last.
        return self.network(x.clone(memory_format=torch.contiguous_format))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> Tensor:
        return self._step("train", batch)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_index: int, dataloader_idx: int = 0) -> None:
        self._step(self.eval_names[dataloader_idx], batch)

    def _step(self, name: str, batch: tuple[Tensor, Tensor]) -> Tensor:
        x, y = batch
        logits = self(x)
        loss = F.cross_entropy(logits, y)
        self.loss[f"{name}_"].update(loss.detach(), len(y))
        self.accuracy[f"{name}_"].update(logits.detach(), y)
        return loss

    def on_validation_epoch_end(self) -> None:
        """Logs everything that this epoch measured: Lightning evaluates at the end of each training epoch."""
        for name in self._names():
            for kind, metrics in (("loss", self.loss), ("acc", self.accuracy)):
                self.log(f"{name}/{kind}", metrics[f"{name}_"].compute())
                metrics[f"{name}_"].reset()

    def _names(self) -> list[str]:
        return ["train", *self.eval_names]

    def configure_optimizers(self) -> Any:
        s = self.optimizer_settings
        kinds: dict[str, Any] = {
            "sgd": lambda: torch.optim.SGD(
                self.network.parameters(), s.lr, s.momentum, weight_decay=s.weight_decay, nesterov=s.nesterov, fused=True
            ),
            "adam": lambda: torch.optim.Adam(self.network.parameters(), s.lr, weight_decay=s.weight_decay, fused=True),
        }
        optimizer = kinds[s.name]()
        milestones = [round(fraction * self.epochs) for fraction in s.milestones]
        schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones, s.gamma)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "epoch"}}
