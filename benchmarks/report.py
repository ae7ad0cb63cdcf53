"""`ersparse status` and `ersparse report` over 1 000 runs."""

from __future__ import annotations

import json
import tempfile
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

from benchmarks.interleaved import Figure, in_turns
from benchmarks.startup import _run
from ersparse.config.options import LAUNCH

RUNS = 1000
READ = """
import json, pathlib, sys
for path in pathlib.Path(sys.argv[1]).rglob("run.json"):
    json.loads(path.read_text())
"""


def figures(asked: Namespace) -> Iterator[Figure]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _many(folder)
        read = ["-c", READ, f"{folder}/many"]
        parts = {
            "read": lambda: _run(read),
            "status": lambda: _run(["-m", "ersparse", "status", f"{folder}/many"]),
            "report": lambda: _run(["-m", "ersparse", "report", f"{folder}/many"]),
        }
        seconds = in_turns(parts, asked.rounds or 3)
    for command in ("status", "report"):
        yield Figure(f"{command} over {RUNS:,} runs", seconds[command], min(seconds["read"]), unit=" s")


def _many(folder: Path) -> None:
    """A run of each of a hundred configurations, ten seeds each, all copied from one draw."""
    _run([str(LAUNCH), "method=draw", f"paths.root={folder}/one", f"paths.cache={folder}/cache"])
    record = json.loads(next((folder / "one").rglob("run.json")).read_text())
    for number in range(RUNS):
        level, seed = number // 10, number % 10
        run = folder / "many" / "runs" / f"net{level}" / f"s{seed}"
        run.mkdir(parents=True)
        own = json.loads(json.dumps(record))
        own["config"]["seed"], own["config"]["sparsity"]["level"] = seed, 0.9 + level / 1001
        (run / "run.json").write_text(json.dumps(own, indent=1))
