"""The commands `ersparse status` and `ersparse report` over 1 000 runs."""

from __future__ import annotations

import json
import tempfile
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

from benchmarks.interleaved import Measurement, interleave
from benchmarks.startup import run_python
from ersparse.config.options import LAUNCH

RUNS = 1000
READ_ALL = """
import json, pathlib, sys
for path in pathlib.Path(sys.argv[1]).rglob("run.json"):
    json.loads(path.read_text())
"""


def measure(arguments: Namespace) -> Iterator[Measurement]:
    """Yield the measurements of both commands; the floor is the time to read all run.json."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write_runs(folder)
        read = ["-c", READ_ALL, f"{folder}/many"]
        parts = {
            "read": lambda: run_python(read),
            "status": lambda: run_python(["-m", "ersparse", "status", f"{folder}/many"]),
            "report": lambda: run_python(["-m", "ersparse", "report", f"{folder}/many"]),
        }
        seconds = interleave(parts, arguments.rounds or 3)
    for command in ("status", "report"):
        yield Measurement(f"{command} over {RUNS:,} runs", seconds[command], min(seconds["read"]), unit=" s")


def _write_runs(folder: Path) -> None:
    """Write the run folders of a hundred configurations with ten seeds each, copied from one draw."""
    run_python([str(LAUNCH), "method=draw", f"paths.root={folder}/one", f"paths.cache={folder}/cache"])
    record = json.loads(next((folder / "one").rglob("run.json")).read_text())
    for number in range(RUNS):
        level, seed = number // 10, number % 10
        run = folder / "many" / "runs" / f"net{level}" / f"s{seed}"
        run.mkdir(parents=True)
        copy = json.loads(json.dumps(record))
        copy["config"]["seed"], copy["config"]["sparsity"]["level"] = seed, 0.9 + level / 1001
        (run / "run.json").write_text(json.dumps(copy, indent=1))
