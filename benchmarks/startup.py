"""From the command line to help, to a drawn network, and to the end of the first training step of the default run."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from argparse import Namespace
from collections.abc import Iterator

from benchmarks.interleaved import Figure, in_turns, ratio
from ersparse.config.options import LAUNCH

FIRST_STEP = """
import os, sys
from ersparse.cli import launch
from ersparse.data.batches import InMemoryDataLoader

def only_one(batches, whole=InMemoryDataLoader.__iter__):
    yield next(whole(batches))
    os._exit(0)

InMemoryDataLoader.__iter__ = only_one
launch()
"""


def figures(asked: Namespace) -> Iterator[Figure]:
    with tempfile.TemporaryDirectory() as folder:
        where = [f"paths.root={folder}", f"paths.cache={folder}", "fresh=true"]
        commands = {
            "import hydra": ["-c", "import hydra"],
            "help": [str(LAUNCH), "--help"],
            "import torch": ["-c", "import torch"],
            "draw": [str(LAUNCH), "method=draw", *where],
            "import pytorch_lightning": ["-c", "import pytorch_lightning"],
            "first step": ["-c", FIRST_STEP, *where],
        }
        parts = {name: lambda words=words: _run(words) for name, words in commands.items()}
        seconds = in_turns(parts, asked.rounds or 5)
    hydra, torch = (min(seconds[f"import {name}"]) for name in ("hydra", "torch"))
    yield Figure("start-up: --help", seconds["help"], hydra, 1.5, " s")
    yield ratio("start-up: --help / import hydra", seconds["help"], seconds["import hydra"], at_most=6)
    yield Figure("start-up: a draw", seconds["draw"], torch + hydra, unit=" s")
    lightning = min(seconds["import pytorch_lightning"])
    yield Figure("start-up: to the first step of the default run", seconds["first step"], lightning + hydra, 8, " s")


def _run(words: list[str]) -> None:
    subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL, cwd=LAUNCH.parent, env=os.environ)
