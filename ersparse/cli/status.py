"""The command `ersparse status [folder] [--watch] [--json]`: states of the runs below a folder. Imports no torch."""

from __future__ import annotations

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

from ersparse.cli.arguments import CommandParser, check_folder
from ersparse.errors import UserError
from ersparse.storage import run_json
from ersparse.sweep.durations import format_age

REFRESH_INTERVAL = 2.0  # seconds, with --watch
STYLES = {"done": "green", "failed": "red", "interrupted": "yellow", "preempted": "yellow", "running": "bold"}


@dataclass(frozen=True)
class RunStatus:
    """The state of a run, or of a job in SLURM's queue whose run has not started yet.

    Attributes:
        folder: the run folder.
        state: done, running, preempted (stopped after a signal), interrupted (its process has ended without recording
            it), pruned (stopped by a search), failed, or queued.
        epoch: number of finished epochs.
        epochs: number of epochs of the run.
        accuracy: test accuracy of the last epoch; None before the run is done.
        age: seconds since run.json was written.
        error: why the run failed, in one line.
        queue: ID and state of its job in SLURM's queue, or "".
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
    """Print the states of the runs below a folder, and return the exit status.

    Raises:
        UserError: there is no such folder.
    """
    options = _parser().parse_args(arguments)
    check_folder(options.folder)
    console = Console(highlight=False, soft_wrap=True)
    if options.json:
        print(json.dumps([asdict(status) for status in run_statuses(options.folder)], indent=1))
    elif options.watch:
        _watch(options.folder, console)
    else:
        for line in status_lines(run_statuses(options.folder), options.folder):
            console.print(line)
    return 0


def _parser() -> CommandParser:
    parser = CommandParser("ersparse status", description="How the runs below a folder stand.")
    parser.add_argument("folder", nargs="?", default="outputs", type=Path, help="outputs, unless given")
    parser.add_argument("--watch", action="store_true", help="refresh every two seconds, until Ctrl-C")
    parser.add_argument("--json", action="store_true", help="print a list of runs, for other programs")
    return parser


def run_statuses(folder: Path) -> list[RunStatus]:
    """Return every run below `folder`, by name, then the jobs in SLURM's queue whose runs have not started yet."""
    now = datetime.now(UTC)
    jobs = _queued_jobs(folder)
    started = [_run_status(path, record, now, str(jobs.pop(path, ""))) for path, record in run_json.find_runs(folder)]
    return started + [
        RunStatus(str(path), "queued", 0, 0, None, float("nan"), None, str(job)) for path, job in jobs.items()
    ]


def _queued_jobs(folder: Path) -> dict[Path, Any]:
    """Return the jobs in SLURM's queue by run folder; empty if SLURM does not answer."""
    from ersparse.sweep.slurm.queue import list_queue

    try:
        return list_queue(folder)
    except (UserError, OSError):
        return {}


def _run_status(path: Path, record: dict[str, Any], now: datetime, queue: str) -> RunStatus:
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


def _seconds_since(updated: Any, now: datetime) -> float:
    try:
        return (now - datetime.fromisoformat(str(updated))).total_seconds()
    except (ValueError, TypeError):  # no time, or one without a time zone
        return float("nan")


def status_lines(statuses: Sequence[RunStatus], folder: Path, limit: int | None = None) -> list[Text]:
    """Return the table for the terminal: a heading, a line for each run, and the number of runs in each state.

    Args:
        statuses: the runs.
        folder: the folder that their names are relative to.
        limit: number of runs to show, unfinished ones first; None shows all.
    """
    shown = list(statuses)
    if limit is not None:
        shown = sorted(statuses, key=lambda status: status.state == "done")[:limit]
    counts = ", ".join(f"{count} {state}" for state, count in Counter(status.state for status in statuses).items())
    heading = Text(f"{'state':13}{'epoch':>9}{'accuracy':>10}{'age':>8}  run", "bold")
    summary = Text(f"{len(statuses)} runs{': ' if counts else ''}{counts}", "bold")
    return [heading, *(_line(status, folder) for status in shown), summary]


def _line(status: RunStatus, folder: Path) -> Text:
    epochs = f"{status.epoch}/{status.epochs}" if status.epochs else ""
    accuracy = "" if status.accuracy is None else f"{status.accuracy:.4f}"
    name = Path(status.folder).relative_to(folder)
    line = Text(f"{status.state:13}", STYLES.get(status.state, ""), no_wrap=True, overflow="ellipsis")
    line.append(f"{epochs:>9}{accuracy:>10}{format_age(status.age):>8}  {name}", "default")
    if status.queue:
        line.append(f"  {status.queue}", "cyan")
    return line.append(f"  {status.error}", "red") if status.error else line


def _watch(folder: Path, console: Console) -> None:
    """Refresh the table until Ctrl-C."""
    with Live(console=console, auto_refresh=False, screen=console.is_terminal) as live:
        try:
            while True:
                lines = status_lines(run_statuses(folder), folder, max(1, console.height - 3))
                for line in lines:
                    line.no_wrap, line.overflow = True, "ellipsis"
                live.update(Group(*lines), refresh=True)
                time.sleep(REFRESH_INTERVAL)
        except KeyboardInterrupt:
            pass
