"""What is not done, again: `python -m ersparse retry <folder> [--run]`. Imports no torch."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ersparse.errors import UserError
from ersparse.storage import run_json
from ersparse.sweep.job import Job
from ersparse.sweep.local.process import COMMAND

SCRIPTS = ("launch.py", "__main__.py", "ersparse")


def main(arguments: Sequence[str]) -> int:
    """Prints the commands of the runs below a folder that are neither done nor running, or runs them.

    Raises:
        UserError: there is no such folder.
    """
    parser = argparse.ArgumentParser("ersparse retry", description="The commands of runs that are not done.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--run", action="store_true", help="run them here, as a sweep does, instead of printing them")
    parser.add_argument("--slots", type=int, help="how many at a time")
    asked = parser.parse_args(arguments)
    if not asked.folder.is_dir():
        raise UserError(f"{asked.folder}: no such folder")
    jobs = []
    for folder, record in run_json.find_runs(asked.folder):
        if run_json.state_of(record, folder) not in ("done", "running"):
            try:
                jobs.append(job_of(folder, record))
            except UserError as error:
                print(error, file=sys.stderr)
    if asked.run:
        from ersparse.sweep.local.launcher import LocalLauncher

        return LocalLauncher(slots=asked.slots).run(jobs)
    for job in jobs:
        print(shlex.join(["python", *COMMAND, *job.words]))
    return 0


def job_of(folder: Path, record: dict[str, Any]) -> Job:
    """The run as its command gave it, with the folder where it lies now as its root.

    Raises:
        UserError: it was not made by a command line of its own.
    """
    root, trainer = folder.resolve().parents[2], record["config"]["trainer"]
    _, script, *words = shlex.split(record["command"])
    if Path(script).name not in SCRIPTS or {"-m", "--multirun"} & set(words):
        raise UserError(f"{folder}: cannot be run again by itself; it was made by {record['command']}")
    return Job(
        words=(*(word for word in words if not word.startswith("paths.root=")), f"paths.root={root}"),
        folder=folder.resolve(),
        root=root,
        devices=trainer["devices"] * trainer["num_nodes"],
        gpu=trainer["accelerator"] == "gpu",
        epochs=record["progress"]["epochs"],
    )
