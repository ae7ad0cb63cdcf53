"""What the presets of the paper's tables and figures cost: runs, images, operations, and hours on this machine.

    python -m benchmarks.presets [--steps 5] [table1 table2 ...]       (--steps 0 leaves out the hours)

Runs, images and operations are those of the preset's dry run; hours are its images at the step time of its dense
network, measured here on random batches in the precision that trainer=auto chooses. Evaluation, and what edge-popup
(a twentieth) and rewiring (next to nothing) add, are left out.
"""

from __future__ import annotations

import argparse
import re
import statistics
import subprocess
import sys
from functools import cache

from benchmarks.interleaved import in_turns
from benchmarks.networks import composed, dense_step, settings_of
from ersparse.config.options import LAUNCH, options_of


def dry(preset: str) -> tuple[int, int, float, list[str]]:
    """Runs, images, operations of masked dense networks, and the model of each run where models are compared."""
    command = [sys.executable, str(LAUNCH), f"experiment={preset}", "dry_run=true", "paths.root=/nonexistent"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    jobs = int(re.search(r"^(\d+) jobs", printed, re.M)[1])
    if "images" not in printed:
        return jobs, 0, 0.0, []
    images = int(re.search(r"images +([\d,]+)", printed)[1].replace(",", ""))
    operations = float(re.search(r"\((\S+) as masked", printed)[1])
    return jobs, images, operations, re.findall(r" model=(\w+)", printed)


@cache
def seconds(model: str, dataset: str, batch: int, steps: int) -> float:
    """The median time of a step."""
    words = [f"model={model}", f"dataset={dataset}", f"dataset.batch_size={batch}", "sparsity=dense"]
    return statistics.median(in_turns({"step": dense_step(settings_of(words))}, steps)["step"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("presets", nargs="*")
    parser.add_argument("--steps", type=int, default=5)
    arguments = parser.parse_args()
    named = arguments.presets or [name for name in options_of("experiment") if re.match(r"(table|figure)\d", name)]
    print("| preset | runs | images | operations | step, ms | hours |\n|---|---|---|---|---|---|")
    for preset in sorted(named, key=lambda name: (name[0] == "f", int(re.sub(r"\D", "", name)))):
        jobs, images, operations, models = dry(preset)
        if not images:
            print(f"| `{preset}` | {jobs} | no training | | | |", flush=True)
            continue
        if not arguments.steps:
            print(f"| `{preset}` | {jobs} | {images:.2g} | {operations:.2g} | | |", flush=True)
            continue
        config = composed([f"experiment={preset}"])
        models, data = models or [config["model"]["name"]], config["dataset"]
        step = statistics.mean(seconds(model, data["name"], data["batch_size"], arguments.steps) for model in models)
        hours, which = images / data["batch_size"] * step / 3600, ", ".join(dict.fromkeys(models))
        print(
            f"| `{preset}` | {jobs} | {images:.2g} | {operations:.2g} | {1000 * step:.0f} ({which}) | {hours:,.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
