"""The command `ersparse retry <folder> [--run]`: repeats the runs that are not done. Imports no torch."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ersparse.cli.arguments import CommandParser, check_folder, positive
from ersparse.errors import UserError
from ersparse.storage import run_json
from ersparse.sweep.job import Job
from ersparse.sweep.local.process import COMMAND

# a theory run has no trainer
ONE_PROCESS: dict[str, Any] = {
    "devices": 1,
    "num_nodes": 1,
    "accelerator": "cpu",
}
SCRIPTS = ("launch.py", "__main__.py", "ersparse")


def main(arguments: Sequence[str]) -> int:
    """Print the commands of the runs below a folder that are neither done, running nor pruned, or run them.

    Returns:
        The exit status.

    Raises:
        UserError: there is no such folder.
    """
    options = _parser().parse_args(arguments)
    check_folder(options.folder)
    jobs = _unfinished_jobs(options.folder)
    if options.run:
        from ersparse.sweep.local.launcher import LocalLauncher

        return LocalLauncher(slots=options.slots).run(jobs)
    for job in jobs:
        print(shlex.join(["python", *COMMAND, *job.overrides]))
    return 0


def _parser() -> CommandParser:
    parser = CommandParser("ersparse retry", description="The commands of runs that are not done.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--run", action="store_true", help="run them here, as a sweep does, instead of printing them")
    parser.add_argument("--slots", type=positive, help="number of jobs at a time")
    return parser


def _unfinished_jobs(folder: Path) -> list[Job]:
    """Return the jobs that can be repeated, and print an error for each of the others."""
    jobs = []
    for path, record in run_json.find_runs(folder):
        if run_json.state_of(record, path) not in ("done", "running", "pruned"):
            try:
                jobs.append(_job_from_record(path, record))
            except UserError as error:
                print(error, file=sys.stderr)
    return jobs


def _job_from_record(folder: Path, record: dict[str, Any]) -> Job:
    """Return the job with the recorded command, and with the root below which the run folder lies now.

    Raises:
        UserError: the run was not started by a command of its own, but by a sweep in one process or a script.
    """
    root, trainer = folder.resolve().parents[2], (record.get("config") or {}).get("trainer") or ONE_PROCESS
    try:
        _, script, *overrides = shlex.split(record.get("command") or "")
    except ValueError:  # no command, or half of one
        script, overrides = "", []
    if Path(script).name not in SCRIPTS or {"-m", "--multirun"} & set(overrides):
        raise UserError(
            f"{folder}: cannot be run again by itself; it was made by {record.get('command') or 'no command'}"
        )
    return Job(
        overrides=(*(text for text in overrides if not text.startswith("paths.root=")), f"paths.root={root}"),
        folder=folder.resolve(),
        root=root,
        devices=trainer["devices"] * trainer["num_nodes"],
        gpu=trainer["accelerator"] == "gpu",
        epochs=(record.get("progress") or {}).get("epochs", 0),
    )
