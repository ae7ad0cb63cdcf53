"""Checkpoint files that say whether they are whole, and whose they are.

The name of a checkpoint ends in the SHA-256 of its run and its bytes: a file that was cut, flipped, zeroed or taken
from another run does not match its name. The one before is kept until the next one verifies.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins import TorchCheckpointIO

log = logging.getLogger(__name__)

KEPT = 2
NAME = re.compile(r"epoch(\d{5,})-([0-9a-f]{16})\.ckpt")


class CheckpointFiles:
    """The checkpoints of one run."""

    def __init__(self, folder: Path, run: str) -> None:
        """`run` is the identity, hash and seed, that their digests include."""
        self.folder, self.run = folder, run

    def intended(self, epoch: int) -> Path:
        """What to ask the Trainer to save after `epoch` epochs; the file gets its digest when it is written."""
        return self.folder / f"epoch{epoch:05d}.ckpt"

    def write(self, checkpoint: dict[str, Any], intended: Path) -> None:
        """Beside its place, flushed, read back and named by its digest; only then do older ones go."""
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = intended.with_suffix(".partial")
        with partial.open("wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(intended.with_name(f"{intended.stem}-{self._digest(partial)}.ckpt"))
        self.keep(KEPT)

    def keep(self, count: int) -> None:
        """Removes all but the newest `count`, and what was left half-written."""
        for path in [*self._newest_first()[count:], *self.folder.glob("*.partial")]:
            path.unlink(missing_ok=True)

    def latest(self) -> tuple[int, Path] | None:
        """(epochs done, path) of the newest whole checkpoint.

        A damaged one is named in the log and set aside under another name, so that it never counts among the newest.
        """
        for path in self._newest_first():
            if path.stem.endswith(f"-{self._digest(path)}"):
                return _epoch(path), path
            log.warning("checkpoint %s is damaged or another run's; going back to the one before", path.name)
            path.rename(path.with_suffix(".damaged"))
        return None

    def _newest_first(self) -> list[Path]:
        found = {path: NAME.fullmatch(path.name) for path in self.folder.glob("*.ckpt")}
        return sorted((path for path, match in found.items() if match), key=_epoch, reverse=True)

    def _digest(self, path: Path) -> str:
        state = hashlib.sha256(self.run.encode())
        with path.open("rb") as file:
            while block := file.read(1 << 22):
                state.update(block)
        return state.hexdigest()[:16]


def _epoch(path: Path) -> int:
    return int(path.stem.removeprefix("epoch").split("-")[0])


class VerifiedCheckpointIO(TorchCheckpointIO):
    """Lets Lightning write through `CheckpointFiles`; reading is Lightning's own, `weights_only`."""

    def __init__(self, files: CheckpointFiles) -> None:
        super().__init__()
        self.files = files

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        self.files.write(checkpoint, Path(path))
