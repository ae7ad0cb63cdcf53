"""The first day on a GPU: every check is a process with a time limit, and a failure does not stop the others.

    python -m benchmarks.gpu_day FOLDER

`summary.json` in the folder is rewritten after every check. `benchmarks/gpu.sh` explains the environment variables.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks.gpu_checks import CHECKS, REHEARSE

LIMIT = float(os.environ.get("LIMIT", "3600" if REHEARSE else "600"))  # seconds in all
SLACK = 10 if REHEARSE else 1  # a rehearsal may share its cores with other work
RESERVE = 5.0  # seconds at the end in which no check is started


def run_check(name: str, folder: Path, seconds: float) -> dict[str, Any]:
    """Run a check in a process of its own, and return its status, duration and result.

    Args:
        name: name of the check.
        folder: where its result and its output go.
        seconds: time after which it is killed, with all processes that it has started.
    """
    result, log = folder / f"{name}.json".replace(":", "-"), folder / f"{name}.log".replace(":", "-")
    result.unlink(missing_ok=True)
    began = time.monotonic()
    command = [sys.executable, "-m", "benchmarks.gpu_checks", name, str(result)]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            status = "ok" if process.wait(seconds) == 0 else "failed"
        except subprocess.TimeoutExpired:
            status = "out of time"
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    found = json.loads(result.read_text()) if result.exists() else None
    lines = log.read_text(errors="replace").strip().splitlines()
    error = None if status == "ok" else (lines or ["no output"])[-1][:500]
    return {"status": status, "seconds": round(time.monotonic() - began, 1), "result": found, "error": error}


def write_summary(folder: Path, found: Mapping[str, Any], began: float) -> None:
    summary = {"rehearsed": REHEARSE, "seconds": round(time.monotonic() - began, 1), "checks": found}
    partial = folder / ".summary.partial"
    partial.write_text(json.dumps(summary, indent=1) + "\n")
    partial.replace(folder / "summary.json")


def main(folder: Path) -> None:
    """Run all checks, or those that the environment variable ONLY names, in their order."""
    folder.mkdir(parents=True, exist_ok=True)
    only, began = tuple(os.environ.get("ONLY", "").split(",")), time.monotonic()
    found: dict[str, Any] = {}
    for name, check in CHECKS.items():
        left = LIMIT - RESERVE - (time.monotonic() - began)
        if not name.startswith(only):
            continue
        if left <= 0:
            found[name] = {"status": "no time left", "seconds": 0.0, "result": None, "error": None}
        else:
            found[name] = run_check(name, folder, min(check.seconds * SLACK, left))
        print(f"{time.monotonic() - began:6.1f} s  {name:28} {found[name]['status']}", flush=True)
        write_summary(folder, found, began)
    print(f"{folder}/summary.json: {sum(each['status'] == 'ok' for each in found.values())} of {len(found)} ok")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
