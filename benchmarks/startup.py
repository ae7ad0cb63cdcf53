"""Start-up time to the help text, to a drawn network, and to the first training step of the default run."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from argparse import Namespace
from collections.abc import Iterator

from benchmarks.interleaved import Measurement, interleave, ratio
from ersparse.config.options import LAUNCH

FIRST_STEP = """
import os, sys
from ersparse.cli import launch
from ersparse.data.batches import InMemoryDataLoader

def first_batch(loader, iterate=InMemoryDataLoader.__iter__):
    yield next(iterate(loader))
    os._exit(0)

InMemoryDataLoader.__iter__ = first_batch
launch()
"""


def measure(arguments: Namespace) -> Iterator[Measurement]:
    """Yield the measurements of all commands; the floor is the time of the imports that a command needs."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [f"paths.root={folder}", f"paths.cache={folder}", "fresh=true"]
        commands = {
            "import hydra": ["-c", "import hydra"],
            "help": [str(LAUNCH), "--help"],
            "import torch": ["-c", "import torch"],
            "draw": [str(LAUNCH), "method=draw", *paths],
            "import pytorch_lightning": ["-c", "import pytorch_lightning"],
            "first step": ["-c", FIRST_STEP, *paths],
        }
        parts = {name: lambda command=command: run_python(command) for name, command in commands.items()}
        seconds = interleave(parts, arguments.rounds or 5)
    hydra, torch = (min(seconds[f"import {name}"]) for name in ("hydra", "torch"))
    yield Measurement("start-up: --help", seconds["help"], hydra, 1.5, " s")
    yield ratio("start-up: --help / import hydra", seconds["help"], seconds["import hydra"], at_most=6)
    yield Measurement("start-up: a draw", seconds["draw"], torch + hydra, unit=" s")
    lightning = min(seconds["import pytorch_lightning"])
    yield Measurement(
        "start-up: to the first step of the default run", seconds["first step"], lightning + hydra, 8, " s"
    )


def run_python(command: list[str]) -> None:
    """Run the Python interpreter with these arguments, and discard its output."""
    subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL, cwd=LAUNCH.parent, env=os.environ)
