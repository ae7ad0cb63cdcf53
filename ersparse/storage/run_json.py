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


def load(folder: Path) -> dict[str, Any]:
    """Read run.json of a run folder.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file does not hold a JSON object.
    """
    record = json.loads((folder / "run.json").read_bytes())
    if not isinstance(record, dict):
        raise ValueError(f"must be a JSON object, is a {type(record).__name__}")
    return record


def read(folder: Path) -> dict[str, Any] | None:
    """Read run.json of a run folder; return None if it cannot be read."""
    try:
        return load(folder)
    except (OSError, ValueError):
        return None


def run_folders(root: Path) -> Iterator[Path]:
    """Yield every folder below `root` that has a run.json, in the order of their names."""
    for path, folders, files in os.walk(root):
        if "run.json" in files:
            folders.clear()  # run folders are not nested
            yield Path(path)
        folders.sort()


def find_runs(root: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield (folder, run.json) of every run below `root` that can be read, in the order of their names."""
    for folder in run_folders(root):
        if record := read(folder):
            yield folder, record


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
