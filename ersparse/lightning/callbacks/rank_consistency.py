"""Checks that the ranks of a distributed run hold the same network."""

from __future__ import annotations

import pytorch_lightning as pl

from ersparse.distributed.collectives import assert_same, assert_same_numbers, average_statistics, world_size
from ersparse.distributed.signals import take_back
from ersparse.lightning.callbacks.masks import network_of
from ersparse.sparse.mask import digest, fingerprint, masks_of


class RankConsistency(pl.Callback):
    """Asserts in `setup`, after each epoch and when the fit ends that all ranks hold the same masks.

    In `setup` it also asserts that the process group has the Trainer's world size. Before each validation it averages
    BatchNorm's running statistics over the ranks, so that all evaluate the same network.

    The callback must come after those that draw masks: DDP broadcasts the buffers of rank 0 when it wraps the network,
    which would hide a difference.
    """

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        assert trainer.world_size == world_size(), "the process group does not have the Trainer's world size"
        assert_same(digest(masks_of(network_of(pl_module))), "their masks")

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Restore the project's signal handlers, which Lightning has replaced."""
        take_back()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        average_statistics(network_of(pl_module))

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Compare the masks by a fingerprint that is computed on the device, before a checkpoint is written."""
        masks = masks_of(network_of(pl_module))
        if masks and world_size() > 1:
            assert_same_numbers(fingerprint(masks), "their masks")

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert_same(digest(masks_of(network_of(pl_module))), "their masks")
