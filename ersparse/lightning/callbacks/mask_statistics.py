"""Mask statistics of each epoch, for the logger."""

from __future__ import annotations

import pytorch_lightning as pl
import torch

from ersparse.lightning.callbacks.masks import network_of
from ersparse.sparse.mask import density_of, masks_of


class MaskStatistics(pl.Callback):
    """Logs two curves at the end of every training epoch, from the first epoch on that changes a mask.

    `mask/grown` is the fraction of kept weights that were not kept an epoch earlier. `mask/sparsity` is the realised
    sparsity (`ersparse.sparse.mask.density_of`).
    """

    def __init__(self) -> None:
        self.before: dict[str, torch.Tensor] = {}
        self.changing = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.before = {name: mask.clone() for name, mask in masks_of(network_of(pl_module)).items()}

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        masks = masks_of(network_of(pl_module))
        self.changing |= any(not torch.equal(mask, self.before[name]) for name, mask in masks.items())
        if self.changing and trainer.logger:
            grown = sum(int((mask & ~self.before[name]).sum()) for name, mask in masks.items())
            kept = sum(int(mask.sum()) for mask in masks.values())
            curves = {"mask/grown": grown / max(1, kept), "mask/sparsity": 1 - density_of(masks)}
            trainer.logger.log_metrics(curves, step=trainer.global_step)
        self.before = {name: mask.clone() for name, mask in masks.items()}
