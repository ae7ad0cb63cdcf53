"""Checkpoints at the end of every epoch, written so that a damaged file is recognised."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from lightning_fabric.plugins import TorchCheckpointIO

from ersparse.storage.checkpoints import CheckpointFiles


class Checkpoints(pl.callbacks.Checkpoint):
    """Saves a checkpoint at the end of every training epoch, after all other callbacks.

    Args:
        path_of: function from the number of finished epochs to the path of the checkpoint.
    """

    def __init__(self, path_of: Callable[[int], Path]) -> None:
        self.path_of = path_of

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        trainer.save_checkpoint(self.path_of(trainer.current_epoch + 1))


class VerifiedCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints by `CheckpointFiles.write`, and reads them as Lightning does, with `weights_only=True`.

    Only checkpoints of finished epochs are written. On a signal of SLURM, Lightning would also save `hpc_ckpt_1.ckpt`
    in the middle of an epoch, and resume from it instead of from ours.

    Args:
        files: the checkpoints of the run.
    """

    def __init__(self, files: CheckpointFiles) -> None:
        super().__init__()
        self.files = files

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a checkpoint of a finished epoch, verify it, and remove older ones."""
        if self.files.is_intended(Path(path)):
            self.files.write(checkpoint, Path(path))
