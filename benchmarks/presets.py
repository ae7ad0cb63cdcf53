"""Cost of the presets of the paper's tables and figures: runs, images, operations, and hours on this machine.

    python -m benchmarks.presets [--steps 5] [table1 table2 ...]       (--steps 0 leaves out the hours)

Runs, images and operations are those of the preset's dry run. The hours are its images times the step time of its dense
network, measured on random batches in the precision that trainer=auto chooses. Not included are evaluation and the
overhead of edge-popup (a twentieth) and of rewiring (negligible).
"""

from __future__ import annotations

import argparse
import re
import statistics
import subprocess
import sys
from functools import cache
from typing import NamedTuple

from benchmarks.interleaved import interleave
from benchmarks.plain_steps import compose_config, dense_step, settings_of
from ersparse.config.options import LAUNCH, options_of


class DryRun(NamedTuple):
    """Totals of a preset.

    Attributes:
        jobs: number of runs.
        images: training images of all runs.
        operations: floating-point operations of masked execution of all runs.
        models: the model of each run, if the preset compares models.
    """

    jobs: int
    images: int = 0
    operations: float = 0.0
    models: tuple[str, ...] = ()


def dry_run(preset: str) -> DryRun:
    """Return the totals that the dry run of a preset prints."""
    command = [sys.executable, str(LAUNCH), f"experiment={preset}", "dry_run=true", "paths.root=/nonexistent"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    jobs = int(re.search(r"^(\d+) jobs", printed, re.M)[1])
    if "images" not in printed:
        return DryRun(jobs)
    images = int(re.search(r"images +([\d,]+)", printed)[1].replace(",", ""))
    operations = float(re.search(r"\((\S+) as masked", printed)[1])
    return DryRun(jobs, images, operations, tuple(re.findall(r" model=(\w+)", printed)))


@cache
def step_seconds(model: str, dataset: str, batch: int, steps: int) -> float:
    """Return the median time of a training step of the dense network."""
    overrides = [f"model={model}", f"dataset={dataset}", f"dataset.batch_size={batch}", "sparsity=dense"]
    return statistics.median(interleave({"step": dense_step(settings_of(overrides))}, steps)["step"])


def row(preset: str, steps: int) -> str:
    """Return the row of a preset, with hours unless `steps` is 0."""
    jobs, images, operations, models = dry_run(preset)
    if not images:
        return f"| `{preset}` | {jobs} | no training | | | |"
    if not steps:
        return f"| `{preset}` | {jobs} | {images:.2g} | {operations:.2g} | | |"
    config = compose_config([f"experiment={preset}"])
    models, data = models or (config["model"]["name"],), config["dataset"]
    step = statistics.mean(step_seconds(model, data["name"], data["batch_size"], steps) for model in models)
    hours, which = images / data["batch_size"] * step / 3600, ", ".join(dict.fromkeys(models))
    return f"| `{preset}` | {jobs} | {images:.2g} | {operations:.2g} | {1000 * step:.0f} ({which}) | {hours:,.0f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("presets", nargs="*")
    parser.add_argument("--steps", type=int, default=5)
    arguments = parser.parse_args()
    names = arguments.presets or [name for name in options_of("experiment") if re.match(r"(table|figure)\d", name)]
    print("| preset | runs | images | operations | step, ms | hours |\n|---|---|---|---|---|---|")
    for preset in sorted(names, key=lambda name: (name[0] == "f", int(re.sub(r"\D", "", name)))):
        print(row(preset, arguments.steps), flush=True)


if __name__ == "__main__":
    main()
