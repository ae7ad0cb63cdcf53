"""SLURM's queue: which of its jobs belong to which runs. Imports no torch.

Before a submission, the names of its run folders are written to `<root>/.sweep/slurm/<name>/jobs.json`, and its jobs
are given that name. Any later query can thus assign jobs to runs, even if the submitting process was killed.
"""

from __future__ import annotations

import getpass
import json
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ersparse.errors import UserError

FORMAT = "%F|%K|%j|%T|%r|%N"  # squeue's columns: job or array, array index, name, state, reason, nodes
PREFIX = "ersparse-"  # of the names of submissions
NO_REASON = ("None", "")
NOT_RUNNING = ("pending", "requeued", "requeue_hold", "special_exit")


@dataclass(frozen=True)
class QueueEntry:
    """A job in SLURM's queue.

    Attributes:
        job: its ID: "12", or "12_3" in an array.
        state: SLURM's job state in lower case, such as pending, running, completing.
        reason: why the job is pending, or "".
        nodes: names of its nodes, or "".
        log: output of its first task.
    """

    job: str
    state: str
    reason: str
    nodes: str
    log: Path

    @property
    def is_running(self) -> bool:
        return self.state not in NOT_RUNNING

    def __str__(self) -> str:
        details = f" on {self.nodes}" if self.nodes else f" ({self.reason})" if self.reason else ""
        return f"{self.job} {self.state}{details}"


def slurm_folder(root: Path) -> Path:
    """Return the folder below a root that holds the scripts and logs of its submissions."""
    return root / ".sweep" / "slurm"


def submissions(root: Path) -> Iterator[tuple[Path, list[Path]]]:
    """Yield the folder of each submission and its run folders, ordered by array index."""
    for path in sorted(slurm_folder(root).glob(f"{PREFIX}*/jobs.json")):
        yield path.parent, [root / name for name in json.loads(path.read_bytes())]


def list_queue(root: Path) -> dict[Path, QueueEntry]:
    """Return the jobs in the queue for the runs below `root`, by run folder.

    Raises:
        UserError: SLURM does not answer.
    """
    by_name = {folder.name: (folder, runs) for folder, runs in submissions(root)}
    entries = {}
    for line in _squeue() if by_name else []:
        job, index, name, state, reason, nodes = (column.strip() for column in line.split("|"))
        if name in by_name:
            folder, runs = by_name[name]
            position = int(index) if index.isdecimal() else 0
            job = f"{job}_{index}" if index.isdecimal() else job
            reason = "" if reason in NO_REASON else reason
            entries[runs[position]] = QueueEntry(job, state.lower(), reason, nodes, folder / f"{job}_0_log.out")
    return entries


def _squeue() -> list[str]:
    command = ["squeue", "--noheader", "--array", f"--user={getpass.getuser()}", f"--format={FORMAT}"]
    return run_slurm_command(command).splitlines()


def latest_log(root: Path, run: Path) -> Path | None:
    """Return the log of the latest job of a run, or None if it has none."""
    logs = [
        log
        for folder, runs in submissions(root)
        if run in runs
        for pattern in (f"*_{runs.index(run)}_0_log.out", *(["*_0_log.out"] if len(runs) == 1 else []))
        for log in folder.glob(pattern)
    ]
    return max(logs, key=lambda log: log.stat().st_mtime, default=None)


def remove_finished_submissions(root: Path, done: set[Path]) -> None:
    """Remove the scripts and logs of submissions of which all runs are among `done`."""
    for folder, runs in list(submissions(root)):
        if done.issuperset(runs):
            shutil.rmtree(folder, ignore_errors=True)


def run_slurm_command(command: Sequence[str], stdin: str | None = None) -> str:
    """Run one of SLURM's commands, and return its standard output.

    Raises:
        UserError: the command does not exist, fails, or does not end within two minutes.
    """
    try:
        done = subprocess.run(
            command, input=stdin, capture_output=True, encoding="utf-8", errors="replace", timeout=120
        )
    except FileNotFoundError:
        raise UserError(
            f"hydra/launcher=slurm: there is no {command[0]} on the PATH; must be used where jobs are submitted from"
        ) from None
    except subprocess.TimeoutExpired:
        raise UserError(f"hydra/launcher=slurm: {command[0]} has not answered for two minutes") from None
    if done.returncode:
        lines = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        raise UserError(f"hydra/launcher=slurm: {lines[-1] if lines else f'{command[0]} failed'}")
    return done.stdout
