"""The average of the weights of the last epochs (stochastic weight averaging, SWA), as sparse as the network."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

from ersparse.distributed.collectives import average as average_over_ranks
from ersparse.lightning.callbacks.weight_average import WeightAverage
from ersparse.lightning.classifier import Classifier


class EqualAverage(WeightAverage):
    """Averages the weights at the end of each epoch from `start` on, all with the same share (Izmailov et al. 2018).

    Running statistics of BatchNorm are not averaged: those of the averaged weights are computed anew, by a pass over
    the training images of the epoch, as `torch.optim.swa_utils.update_bn` does. The average is evaluated beside the
    network's own weights, in the same epoch; before `start` it is the network's own.

    Args:
        start: fraction of the run's epochs, in [0, 1); at least the last epoch is averaged.

    Attributes:
        count: number of epochs averaged so far.
    """

    name = "swa"

    def __init__(self, start: float) -> None:
        super().__init__(decay=0.0)
        self.start, self.count = start, 0

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Average at the end of epochs only."""

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        epochs = trainer.max_epochs or 1
        if trainer.current_epoch >= min(round(self.start * epochs), epochs - 1):
            self.count += 1
            self.decay = 1 - 1 / self.count
            self.update()
            if any(_has_statistics(module) for module in self.stand_in.modules()):
                self._renew_statistics(trainer, pl_module)

    @torch.no_grad()
    def _renew_statistics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Compute the running statistics of BatchNorm for the averaged weights, over the training images."""
        assert isinstance(pl_module, Classifier) and trainer.train_dataloader is not None
        fresh = _statistics(self.network)
        buffers = {name: value.clone() for name, value in self.network.named_buffers()}
        tensors = buffers | self.dense() | fresh
        self.stand_in.train()
        with trainer.precision_plugin.val_step_context():
            for images, _ in trainer.train_dataloader:
                x = pl_module.to_memory_format(images.to(pl_module.device))
                functional_call(self.stand_in, tensors, (x,))
        self.stand_in.eval()
        average_over_ranks(value for value in fresh.values() if value.is_floating_point())
        self.average |= {name: value for name, value in fresh.items() if value.is_floating_point()}

    def make_stand_in(self, network: nn.Module) -> nn.Module:
        """Return a copy of the network without weights, whose BatchNorm takes the mean of its statistics."""
        stand_in = super().make_stand_in(network)
        for module in stand_in.modules():
            if _has_statistics(module):
                module.momentum = None  # type: ignore[assignment]
        return stand_in

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"count": self.count}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.count = state_dict["count"]


def _has_statistics(module: nn.Module) -> bool:
    return isinstance(module, _BatchNorm) and module.track_running_stats


def _statistics(network: nn.Module) -> dict[str, Tensor]:
    """Return zeros in place of the running statistics of BatchNorm and their counts, by name."""
    return {
        f"{place}.{name}".lstrip("."): torch.zeros_like(value)
        for place, module in network.named_modules()
        if _has_statistics(module)
        for name, value in module.named_buffers(recurse=False)
    }
