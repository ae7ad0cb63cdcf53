"""Checkpoints at epoch ends, written so that a damaged file is recognised."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from lightning_fabric.plugins import TorchCheckpointIO

from ersparse.storage.checkpoints import CheckpointFiles


class Checkpoints(pl.callbacks.Checkpoint):
    """Saves a checkpoint at the end of every epoch, after all other callbacks.

    Args:
        path_of: number of finished epochs -> path.
    """

    def __init__(self, path_of: Callable[[int], Path]) -> None:
        self.path_of = path_of

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        trainer.save_checkpoint(self.path_of(trainer.current_epoch + 1))


class VerifiedCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints through `CheckpointFiles`; reading is Lightning's own, with `weights_only`."""

    def __init__(self, files: CheckpointFiles) -> None:
        super().__init__()
        self.files = files

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        self.files.write(checkpoint, Path(path))
