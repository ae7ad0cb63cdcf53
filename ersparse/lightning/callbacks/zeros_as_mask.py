"""Weights that training has made zero become the mask at the end (STR, spred)."""

from __future__ import annotations

import logging

import pytorch_lightning as pl
import torch

from ersparse.lightning.callbacks.masks import network_of
from ersparse.lightning.callbacks.phases import attach_full_masks
from ersparse.sparse.layers import Layer
from ersparse.sparse.mask import Masks, density_of, enforce, masks_of
from ersparse.sparse.transfer import counts

log = logging.getLogger("ersparse")


class ZerosAsMask(pl.Callback):
    """Logs the sparsity that training has reached after every epoch, and removes zero weights in the last one.

    Removal precedes the last evaluation, so that this is of the network that the run ends with.

    Args:
        layers: prunable layers of the network.
        threshold: weights with magnitudes up to it count as zero.
    """

    def __init__(self, layers: list[Layer], threshold: float) -> None:
        self.layers, self.threshold = layers, threshold

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        attach_full_masks(network_of(pl_module), self.layers)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Remove zero weights if the training ends with this epoch."""
        network = network_of(pl_module)
        if trainer.current_epoch + 1 != trainer.max_epochs:
            return
        for name, kept in self._kept(network).items():
            masks_of(network)[name].copy_(kept)
        enforce(network)
        if empty := [name for name, count in counts(masks_of(network)).items() if not count]:
            log.warning("no weight is left of %s", ", ".join(empty))

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the sparsity of all layers together."""
        pl_module.log("mask/sparsity", 1 - density_of(self._kept(network_of(pl_module))))

    def _kept(self, network: torch.nn.Module) -> Masks:
        masks = masks_of(network)
        return {n: mask & (network.get_parameter(n).detach().abs() > self.threshold) for n, mask in masks.items()}
