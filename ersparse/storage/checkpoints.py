"""Checkpoint files that say whether they are whole, and whose they are.

The name of a checkpoint ends in the SHA-256 of its run and its bytes: a file that was cut, flipped, zeroed or taken
from another run does not match its name. The one before is kept until the next one verifies.
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

log = logging.getLogger(__name__)

KEPT = 2
FORMAT = 1  # of what a checkpoint holds; a later one is written as epoch00001-<digest>.v2.ckpt
NAME = re.compile(r"epoch(\d{5,})-([0-9a-f]{16})(?:\.v(\d+))?\.ckpt")


class CheckpointFiles:
    """The checkpoints of one run."""

    def __init__(self, folder: Path, run: str) -> None:
        """`run` is the identity, hash and seed, that their digests include."""
        self.folder, self.run = folder, run

    def intended(self, epoch: int) -> Path:
        """What to ask the Trainer to save after `epoch` epochs; the file gets its digest when it is written."""
        return self.folder / f"epoch{epoch:05d}.ckpt"

    def write(self, checkpoint: dict[str, Any], intended: Path) -> None:
        """Named by the digest of its bytes, written whole, and read back; only then do older ones go.

        Raises:
            OSError: it cannot be written, or reads back differently.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        stream = io.BytesIO()
        torch.save(checkpoint, stream)
        data = stream.getbuffer()
        path = intended.with_name(f"{intended.stem}-{self._digest(data)}.ckpt")
        write_bytes(path, data)
        if not self._whole(path):
            raise OSError(f"{path.name} reads back differently from what was written")
        self.keep(KEPT)

    def keep(self, count: int) -> None:
        """Removes all but the newest `count`, and what was left half-written."""
        for path in [*self._newest_first()[count:], *self.folder.glob(".*.partial")]:
            path.unlink(missing_ok=True)

    def some(self) -> bool:
        """Whether there is a file that calls itself a checkpoint."""
        return bool(self._newest_first())

    def latest(self) -> tuple[int, Path] | None:
        """(epochs done, path) of the newest whole checkpoint.

        One that is damaged, or of a newer format, is named in the log and set aside under another name, so that it
        never counts among the newest.
        """
        for path in self._newest_first():
            match = NAME.fullmatch(path.name)
            assert match
            if match[3]:
                reason = f"is from a newer ersparse (format {match[3]}, this one reads {FORMAT})"
            elif self._whole(path):
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

    def _whole(self, path: Path) -> bool:
        return path.stem.endswith(f"-{self._digest(path.read_bytes())}")

    def _digest(self, data: bytes | memoryview) -> str:
        state = hashlib.sha256(self.run.encode())
        state.update(data)
        return state.hexdigest()[:16]
