"""How the runs below a folder stand: `python -m ersparse status [folder] [--watch] [--json]`. Imports no torch."""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from ersparse.errors import UserError
from ersparse.storage import run_json

EVERY = 2.0  # seconds between two looks with --watch
STYLES = {"done": "green", "failed": "red", "interrupted": "yellow", "preempted": "yellow", "running": "bold"}


@dataclass(frozen=True)
class RunStatus:
    """One run, or a job in SLURM's queue that has not made its folder yet.

    Attributes:
        state: done, running, preempted (stopped with notice), interrupted (its process is gone), failed.
        accuracy: on the test images, of the last epoch; None before the run is done.
        age: seconds since run.json was written.
        error: why it failed, in one line.
        queue: its job in SLURM's queue, and how that stands; "" where there is none.
    """

    folder: str
    state: str
    epoch: int
    epochs: int
    accuracy: float | None
    age: float
    error: str | None
    queue: str = ""


def main(arguments: Sequence[str]) -> int:
    """Prints the table, again and again with --watch, or JSON.

    Raises:
        UserError: there is no such folder.
    """
    parser = argparse.ArgumentParser("ersparse status", description="How the runs below a folder stand.")
    parser.add_argument("folder", nargs="?", default="outputs", type=Path, help="outputs, unless given")
    parser.add_argument("--watch", action="store_true", help="look again every two seconds, until Ctrl-C")
    parser.add_argument("--json", action="store_true", help="a list of runs, for other programs")
    asked = parser.parse_args(arguments)
    if not asked.folder.is_dir():
        raise UserError(f"{asked.folder}: no such folder")
    console = Console(highlight=False, soft_wrap=True)
    if asked.json:
        print(json.dumps([asdict(row) for row in rows_of(asked.folder)], indent=1))
    elif asked.watch:
        _watch(asked.folder, console)
    else:
        for line in lines_of(rows_of(asked.folder), asked.folder):
            console.print(line)
    return 0


def rows_of(folder: Path) -> list[RunStatus]:
    """Every run below `folder`, by name, then the jobs in SLURM's queue that have made no folder yet."""
    now = datetime.now(UTC)
    jobs = _queued(folder)
    rows = [_row(path, record, now, str(jobs.pop(path, ""))) for path, record in run_json.find_runs(folder)]
    return rows + [
        RunStatus(str(path), "queued", 0, 0, None, float("nan"), None, str(job)) for path, job in jobs.items()
    ]


def _queued(folder: Path) -> dict[Path, Any]:
    """Jobs by run folder; none where SLURM does not answer."""
    from ersparse.sweep.slurm.queue import queued

    try:
        return queued(folder)
    except UserError:
        return {}


def _row(path: Path, record: dict[str, Any], now: datetime, queue: str) -> RunStatus:
    progress, error = record.get("progress") or {}, record.get("error")
    return RunStatus(
        folder=str(path),
        state=run_json.state_of(record, path),
        epoch=progress.get("epoch", 0),
        epochs=progress.get("epochs", 0),
        accuracy=(record.get("metrics") or {}).get("test/acc"),
        age=_seconds_since(record.get("updated"), now),
        error=" ".join(str(error).split()) if error else None,
        queue=queue,
    )


def lines_of(rows: Sequence[RunStatus], folder: Path, most: int | None = None) -> list[Text]:
    """A line for each run, and how many there are of each state; of many only `most`, those that are not done first."""
    shown = list(rows) if most is None else sorted(rows, key=lambda row: row.state == "done")[:most]
    counts = ", ".join(f"{count} {state}" for state, count in Counter(row.state for row in rows).items())
    head = Text(f"{'state':13}{'epoch':>9}{'accuracy':>10}{'age':>8}  run", "bold")
    foot = Text(f"{len(rows)} runs{': ' if counts else ''}{counts}", "bold")
    return [head, *(_line(row, folder) for row in shown), foot]


def _line(row: RunStatus, folder: Path) -> Text:
    epochs = f"{row.epoch}/{row.epochs}" if row.epochs else ""
    accuracy = "" if row.accuracy is None else f"{row.accuracy:.4f}"
    line = Text(f"{row.state:13}", STYLES.get(row.state, ""), no_wrap=True, overflow="ellipsis")
    line.append(
        f"{epochs:>9}{accuracy:>10}{age_in_words(row.age):>8}  {Path(row.folder).relative_to(folder)}", "default"
    )
    if row.queue:
        line.append(f"  {row.queue}", "cyan")
    return line.append(f"  {row.error}", "red") if row.error else line


def _watch(folder: Path, console: Console) -> None:
    with Live(console=console, auto_refresh=False, screen=console.is_terminal) as live:
        try:
            while True:
                lines = lines_of(rows_of(folder), folder, max(1, console.height - 3))
                for line in lines:
                    line.no_wrap, line.overflow = True, "ellipsis"
                live.update(Group(*lines), refresh=True)
                time.sleep(EVERY)
        except KeyboardInterrupt:
            pass


def _seconds_since(updated: Any, now: datetime) -> float:
    try:
        return (now - datetime.fromisoformat(str(updated))).total_seconds()
    except ValueError:
        return float("nan")


def age_in_words(seconds: float) -> str:
    """12 s, 5 min, 3 h, 2 d."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s" if seconds == seconds else ""
