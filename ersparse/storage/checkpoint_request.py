"""Requests for a checkpoint at the end of the current epoch, by a file in the run folder. Imports no torch."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

FOLDER, NAME = "checkpoints", ".requested"


def request_checkpoint(run: Path) -> None:
    """Ask the run in this folder, whichever process trains it, for a checkpoint at the end of its current epoch."""
    with suppress(OSError):  # of a run that has no folder yet, or a full disk: it stops at its last checkpoint then
        (run / FOLDER).mkdir(parents=True, exist_ok=True)
        (run / FOLDER / NAME).touch()


def is_requested(checkpoints: Path) -> bool:
    """Return whether a checkpoint is wanted in this folder of checkpoints."""
    return (checkpoints / NAME).exists()


def withdraw(checkpoints: Path) -> None:
    """Remove the request, because a checkpoint has been written."""
    (checkpoints / NAME).unlink(missing_ok=True)
