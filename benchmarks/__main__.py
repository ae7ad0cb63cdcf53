"""Benchmarks of ersparse against its alternatives and against the limits of the hardware, as ratios.

    python -m benchmarks [step pipeline masks rewiring checkpoint startup report seeds compiled data recipe]
                         [--models resnet18 ...] [--rounds N] [--processor] [--json FILE]
    python -m benchmarks gpu-report SUMMARY     the table of benchmarks/gpu.sh

All alternatives are interleaved. README.md in this folder explains the output.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
from pathlib import Path

import torch

from benchmarks import gpu_report
from benchmarks.hardware_limits import machine_name
from benchmarks.interleaved import PROCESSOR_TIME, TABLE_HEADER

NAMES = [
    "step",
    "pipeline",
    "masks",
    "rewiring",
    "checkpoint",
    "startup",
    "report",
    "seeds",
    "compiled",
    "data",
    "recipe",
]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser("benchmarks", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[*NAMES, []], metavar="NAME", help="benchmarks to run; default all")
    parser.add_argument("--models", nargs="+", help="models of step, masks, rewiring and compiled")
    parser.add_argument("--rounds", type=int, help="number of rounds")
    parser.add_argument("--processor", action="store_true", help="processor time: for a busy machine, with one thread")
    parser.add_argument("--json", type=Path, help="file for the values of all rounds")
    return parser.parse_args()


def main() -> None:
    arguments = _arguments()
    if arguments.processor:
        os.environ[PROCESSOR_TIME] = "1"
    environment = {"machine": machine_name(), "threads": torch.get_num_threads()}
    print(f"{environment['machine']}, {environment['threads']} threads\n\n{TABLE_HEADER}", flush=True)
    results = []
    for name in arguments.names or NAMES:
        for measurement in importlib.import_module(f"benchmarks.{name}").measure(arguments):
            print(measurement.row(), flush=True)
            results.append({**vars(measurement), "values": list(measurement.values), "median": measurement.median})
    if arguments.json:
        arguments.json.write_text(json.dumps(environment | {"figures": results}, indent=1) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["gpu-report"]:
        gpu_report.main(sys.argv[2])
    else:
        main()
