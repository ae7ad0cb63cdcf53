"""Checkpoint files with a digest in their name, by which damage is recognised.

The name of a checkpoint ends in the SHA-256 of its run's identity and its bytes. A file that is truncated, corrupted or
copied from another run does not match its name. The previous checkpoint is kept until the next one is verified.
"""

from __future__ import annotations

import hashlib
import io
import logging
import re
from pathlib import Path
from typing import Any

import torch

from ersparse.storage.atomic import write_bytes
from ersparse.storage.packed_tensors import is_packed, pack

log = logging.getLogger(__name__)

KEPT = 2
FORMAT = 2  # of the contents: 1 is what Lightning saves, 2 has packed tensors and is named epoch00001-<digest>.v2.ckpt
NAME = re.compile(r"epoch(\d{5,})-([0-9a-f]{16})(?:\.v(\d+))?\.ckpt")


class CheckpointFiles:
    """The checkpoints of one run.

    Args:
        folder: the folder of the checkpoints; `write` creates it.
        run: identity of the run (hash and seed), which the digests include.
    """

    def __init__(self, folder: Path, run: str) -> None:
        self.folder, self.run = folder, run

    def intended(self, epoch: int) -> Path:
        """Return the path to pass to `Trainer.save_checkpoint` after `epoch` epochs; `write` adds the digest."""
        return self.folder / f"epoch{epoch:05d}.ckpt"

    def is_intended(self, path: Path) -> bool:
        """Return whether `intended` has named this path."""
        return path.parent == self.folder and re.fullmatch(r"epoch\d{5,}", path.stem) is not None

    def write(self, checkpoint: dict[str, Any], intended: Path) -> None:
        """Write a checkpoint atomically, verify it by reading it back, and then remove older ones.

        Args:
            checkpoint: contents of the checkpoint.
            intended: path from `intended`.

        Raises:
            OSError: the file cannot be written, or does not read back as written.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        stream, contents = io.BytesIO(), pack(checkpoint)
        torch.save(contents, stream)
        data = stream.getbuffer()
        version = ".v2" if is_packed(contents) else ""
        path = intended.with_name(f"{intended.stem}-{self._digest(data)}{version}.ckpt")
        write_bytes(path, data)
        if not self._intact(path):
            raise OSError(f"{path.name} reads back differently from what was written")
        self.keep(KEPT)

    def keep(self, count: int) -> None:
        """Remove all but the newest `count` checkpoints, and partial files of interrupted writes."""
        for path in [*self._newest_first()[count:], *self.folder.glob(".*.partial")]:
            path.unlink(missing_ok=True)

    def some(self) -> bool:
        """Return whether there is any file with the name of a checkpoint."""
        return bool(self._newest_first())

    def latest(self) -> tuple[int, Path] | None:
        """Return (finished epochs, path) of the newest intact checkpoint; None if there is none.

        Checkpoints that are damaged or of a newer format are logged and renamed to `.aside`, so that they no longer
        count among the newest.
        """
        for path in self._newest_first():
            match = NAME.fullmatch(path.name)
            assert match
            if match[3] and int(match[3]) > FORMAT:
                reason = f"is from a newer ersparse (format {match[3]}, this one reads {FORMAT})"
            elif self._intact(path):
                return int(match[1]), path
            else:
                reason = "is damaged or another run's"
            log.warning("checkpoint %s %s; going back to the one before", path.name, reason)
            path.rename(path.with_suffix(".aside"))
        return None

    def _newest_first(self) -> list[Path]:
        found = {path: NAME.fullmatch(path.name) for path in self.folder.glob("*.ckpt")}
        epochs = {path: int(match[1]) for path, match in found.items() if match}
        return sorted(epochs, key=lambda path: epochs[path], reverse=True)

    def _intact(self, path: Path) -> bool:
        match = NAME.fullmatch(path.name)
        return match is not None and match[2] == self._digest(path.read_bytes())

    def _digest(self, data: bytes | memoryview) -> str:
        state = hashlib.sha256(self.run.encode())
        state.update(data)
        return state.hexdigest()[:16]
