"""How a run stands, from its run.json and its lock alone. Imports no torch."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ersparse.storage.atomic import write_json
from ersparse.storage.provenance import now

SCHEMA = 1  # of run.json


def read(folder: Path) -> dict[str, Any] | None:
    """run.json of a run folder; None where there is none that can be read."""
    try:
        record = json.loads((folder / "run.json").read_bytes())
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None


def find_runs(root: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """(folder, run.json) of every run below `root`, in the order of their names."""
    for path, folders, files in os.walk(root):
        if "run.json" in files:
            folders.clear()  # a run holds no other
            if record := read(Path(path)):
                yield Path(path), record
        folders.sort()


def in_use(folder: Path) -> bool:
    """Whether a process holds the lock of a run folder."""
    try:
        with (folder / ".lock").open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # there is no lock, or it is not ours to open
        return False
    return False


def mark_state(folder: Path, state: str, error: str) -> None:
    """Says in run.json what became of a run that could not say it itself; one that is done stays so."""
    record = read(folder)
    if record and record.get("state") != "done":
        write_json(folder / "run.json", record | {"state": state, "error": error, "updated": now()})


def state_of(record: dict[str, Any] | None, folder: Path) -> str:
    """new, done, running, preempted, failed; or interrupted: said to be running, and nobody holds its lock."""
    if record is None:
        return "new"
    state = str(record.get("state"))
    return "interrupted" if state == "running" and not in_use(folder) else state
