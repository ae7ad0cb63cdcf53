"""Checkpoints at the end of epochs, written so that a damaged file is recognised."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from lightning_fabric.plugins import TorchCheckpointIO

from ersparse.storage.checkpoint_request import is_requested, withdraw
from ersparse.storage.checkpoints import CheckpointFiles
from ersparse.storage.packed_tensors import map_tensors, unpack


class Checkpoints(pl.callbacks.Checkpoint):
    """Saves a checkpoint at the end of training epochs, after all other callbacks.

    Args:
        files: the checkpoints of the run.
        every: seconds that have to have passed since the last one; 0 saves one after every epoch. The last epoch of a
            run always has one, and one that `ersparse.storage.checkpoint_request` asks for is saved at once.
    """

    def __init__(self, files: CheckpointFiles, every: float = 0.0) -> None:
        self.files, self.every = files, every

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.saved_at = time.monotonic()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not self.every or self._is_due(trainer):
            trainer.save_checkpoint(self.files.intended(trainer.current_epoch + 1))
            self.saved_at = time.monotonic()
            withdraw(self.files.folder)

    def _is_due(self, trainer: pl.Trainer) -> bool:
        """Return what rank 0 decides, since all ranks take part in saving."""
        is_last = trainer.should_stop or trainer.current_epoch + 1 == trainer.max_epochs
        due = is_last or time.monotonic() - self.saved_at >= self.every or is_requested(self.files.folder)
        return bool(trainer.strategy.broadcast(due))


class VerifiedCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints by `CheckpointFiles.write`, and reads them as Lightning does, with `weights_only=True`.

    A network on a GPU trains on meanwhile: its state is copied to the host, and a thread writes the copy. There is one
    such write at a time, and its error, if any, is raised by the next or by `teardown`.

    Only checkpoints of finished epochs are written. On a signal of SLURM, Lightning would also save `hpc_ckpt_1.ckpt`
    in the middle of an epoch, and resume from it instead of from ours.

    Args:
        files: the checkpoints of the run.
    """

    def __init__(self, files: CheckpointFiles) -> None:
        super().__init__()
        self.files = files
        self.executor = ThreadPoolExecutor(1, "checkpoint")
        self.pending: Future[None] | None = None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a checkpoint of a finished epoch, verify it, and remove older ones."""
        if not self.files.is_intended(Path(path)):
            return
        self._wait()
        if all(tensor.device.type == "cpu" for tensor in checkpoint["state_dict"].values()):
            self.files.write(checkpoint, Path(path))
        else:
            self.pending = self.executor.submit(self.files.write, snapshot(checkpoint), Path(path))

    def load_checkpoint(self, path: Any, *arguments: Any, **options: Any) -> dict[str, Any]:
        """Read a checkpoint, and unpack its packed tensors."""
        contents: dict[str, Any] = unpack(super().load_checkpoint(path, *arguments, **options))
        return contents

    def teardown(self) -> None:
        """Wait until the last checkpoint has been written."""
        self._wait()

    def _wait(self) -> None:
        pending, self.pending = self.pending, None
        if pending:
            pending.result()


def snapshot(value: Any) -> Any:
    """Return a copy of a checkpoint whose tensors lie on the CPU, so that training can change the original."""
    return map_tensors(value, lambda tensor: tensor.detach().to("cpu", copy=True))
