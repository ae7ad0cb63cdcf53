"""ersparse beside its alternatives and beside what this machine can do, as ratios.

    python -m benchmarks [step pipeline masks rewiring checkpoint startup report seeds compiled] [--models resnet18 ...]
                         [--rounds N] [--processor] [--json FILE]

All that is compared takes turns. README.md, here, says what the numbers mean.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
from pathlib import Path

import torch

from benchmarks import hardware_limits
from benchmarks.interleaved import HEAD, PROCESSOR

NAMES = ["step", "pipeline", "masks", "rewiring", "checkpoint", "startup", "report", "seeds", "compiled"]


def main() -> None:
    parser = argparse.ArgumentParser("benchmarks", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[*NAMES, []], metavar="NAME", help="all, unless given")
    parser.add_argument("--models", nargs="+", help="of step, masks and rewiring")
    parser.add_argument("--rounds", type=int, help="how often each takes its turn")
    parser.add_argument("--processor", action="store_true", help="processor seconds: for a busy machine, on one thread")
    parser.add_argument("--json", type=Path, help="a file to write all rounds to")
    asked = parser.parse_args()
    if asked.processor:
        os.environ[PROCESSOR] = "1"
    where = {"machine": hardware_limits.name(), "threads": torch.get_num_threads()}
    print(f"{where['machine']}, {where['threads']} threads\n\n{HEAD}", flush=True)
    found = []
    for name in asked.names or NAMES:
        for figure in importlib.import_module(f"benchmarks.{name}").figures(asked):
            print(figure.row(), flush=True)
            found.append({**vars(figure), "values": list(figure.values), "median": figure.median})
    if asked.json:
        asked.json.write_text(json.dumps(where | {"figures": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
