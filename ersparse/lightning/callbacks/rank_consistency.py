"""Several ranks that are one network."""

from __future__ import annotations

import pytorch_lightning as pl

from ersparse.distributed.collectives import assert_same, average_statistics, world_size
from ersparse.distributed.signals import take_back
from ersparse.lightning.callbacks.masks import network_of
from ersparse.sparse.mask import digest, masks_of


class RankConsistency(pl.Callback):
    """Asserts that the ranks found each other and hold the same masks, and lets them evaluate the same network.

    Comes after the callbacks that draw masks: DDP copies the first rank's buffers to the others when it wraps the
    network, and would hide a difference.
    """

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        assert trainer.world_size == world_size(), "the ranks did not find each other"
        assert_same(digest(masks_of(network_of(pl_module))), "their masks")

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        take_back()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        average_statistics(network_of(pl_module))

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert_same(digest(masks_of(network_of(pl_module))), "their masks")
