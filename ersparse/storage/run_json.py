"""The reader of run.json, and the state of a run from its record and its lock. Imports no torch."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ersparse.storage.atomic import write_json
from ersparse.storage.locks import is_held
from ersparse.storage.provenance import now

NAME = "run.json"
LOCK = ".lock"
SCHEMA = 1  # version of the fields of run.json
TYPES = {
    "schema": int, "command": str, "config": dict, "progress": dict, "updated": str, "error": str, "sparsity": dict,
    "layers": list, "metrics": dict,
}  # fmt: skip


def load_object(file: Path) -> dict[str, Any]:
    """Return the JSON object in `file`.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file does not hold a JSON object.
    """
    content = json.loads(file.read_bytes())
    if not isinstance(content, dict):
        raise ValueError(f"must be a JSON object, is a {type(content).__name__}")
    return content


def load(folder: Path) -> dict[str, Any]:
    """Return the record in a run folder.

    Raises:
        OSError: run.json cannot be read.
        ValueError: run.json does not hold the record of a run, but that of another program, for example.
    """
    record = load_object(folder / NAME)
    if not isinstance(record.get("state"), str):
        raise ValueError("must be the record of a run, has no state")
    for key, kind in TYPES.items():
        if not isinstance(record.get(key), kind | None):
            raise ValueError(f"must be the record of a run, its {key} is a {type(record[key]).__name__}")
    for key in ("progress", "metrics"):
        if not all(isinstance(value, int | float | None) for value in (record.get(key) or {}).values()):
            raise ValueError(f"must be the record of a run, its {key} must be numbers")
    return record


def read(folder: Path) -> dict[str, Any] | None:
    """Return the record in a run folder; None if it is missing or damaged."""
    try:
        return load(folder)
    except (OSError, ValueError):
        return None


def run_folders(root: Path) -> Iterator[Path]:
    """Yield every folder below `root` that has a run.json, sorted by name."""
    for path, folders, files in os.walk(root):
        if NAME in files:
            folders.clear()  # run folders are not nested
            yield Path(path)
        folders.sort()


def find_runs(root: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield (run folder, record) for every readable run below `root`, sorted by name."""
    for folder in run_folders(root):
        if record := read(folder):
            yield folder, record


def in_use(folder: Path) -> bool:
    """Return whether a process seems to hold the lock of a run folder; to be sure, take the lock."""
    return is_held(folder / LOCK)


def mark_state(folder: Path, state: str, error: str) -> None:
    """Record the state and error of a run that could not record them itself; state "done" is final."""
    record = read(folder)
    if record and record.get("state") != "done":
        write_json(folder / NAME, record | {"state": state, "error": error, "updated": now()})


def mark_pruned(folder: Path, reason: str) -> None:
    """Record that a search has stopped a run, which is preempted, and that nothing waits for its end."""
    record = read(folder)
    if record and record.get("state") != "done":
        content = record | {"state": "preempted", "error": reason, "pruned": True, "updated": now()}
        write_json(folder / NAME, content)


def state_of(record: dict[str, Any] | None, folder: Path) -> str:
    """Return the state of a run: new, running, preempted, failed, done, interrupted, or pruned.

    A run is interrupted if its record says "running" and no process holds its lock, and pruned if a search has stopped
    it. Its own command resumes a pruned run like any other.

    Args:
        record: the record of the run; None is state "new".
        folder: the run folder.
    """
    if record is None:
        return "new"
    state = str(record.get("state"))
    if state == "preempted" and record.get("pruned"):
        return "pruned"
    return "interrupted" if state == "running" and not in_use(folder) else state
