"""Overhead of a sweep relative to its runs, and time of `ersparse status`.

    python -m benchmarks.sweeps [--runs 20] [--slots 2]

Bare runs are executed one after the other, each on the cores of one slot. A sweep should take the sum of their times
divided by the number of slots. Then `ersparse status` reads 10 000 run folders.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ersparse.sweep.local.slots import cores_of, job_environment, machine_resources, make_slots

ROOT = Path(__file__).resolve().parent.parent
OVERRIDES = ["trainer.max_epochs=5", "model.width=0.5"]


def seconds(*arguments: str, **options: object) -> float:
    """Return the seconds that the Python interpreter takes with these arguments; `options` are of subprocess.run."""
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL, cwd=ROOT, **options)  # type: ignore[call-overload]
    return time.perf_counter() - start


def measure_sweep(folder: Path, runs: int, slots: int) -> None:
    """Print the times of the bare runs, of the sweep, and of the same sweep again."""
    cores, gib = machine_resources()
    slot = make_slots(slots, 1, [], cores, gib)[:1]
    inherited = os.environ.copy()
    os.sched_setaffinity(0, cores_of(slot))  # inherited by child processes
    bare = [
        seconds(
            "launch.py",
            *OVERRIDES,
            f"seed={seed}",
            f"paths.root={folder}/bare",
            env=job_environment(inherited, slot, 1),
        )
        for seed in range(runs)
    ]
    os.sched_setaffinity(0, cores)
    sweep = ["-m", *OVERRIDES, f"seed=range(0,{runs})", f"paths.root={folder}/sweep", f"hydra.launcher.slots={slots}"]
    first = seconds("launch.py", *sweep, env=inherited)
    again = seconds("launch.py", *sweep, env=inherited)
    print(f"bare runs: n={runs}, mean {sum(bare) / runs:.2f} s, from {min(bare):.2f} to {max(bare):.2f} s")
    ratio = first * slots / sum(bare)
    print(f"their sum over {slots} slots {sum(bare) / slots:.1f} s; the sweep {first:.1f} s, {ratio:.3f} of it")
    print(f"the sweep again, with nothing to do: {again:.1f} s")


def measure_status(folder: Path, runs: int) -> None:
    """Print the time of `ersparse status` over copies of the sweep's first run."""
    record = json.loads(next((folder / "sweep").rglob("run.json")).read_text())
    for number in range(runs):
        run = folder / "many" / "runs" / f"net{number // 5}" / f"s{number % 5}"
        run.mkdir(parents=True)
        state = "running" if number % 100 == 0 else "done"
        (run / "run.json").write_text(json.dumps(record | {"state": state}, indent=1))
        (run / ".lock").touch()
    print(f"status over {runs} runs: {seconds('-m', 'ersparse', 'status', f'{folder}/many'):.2f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--slots", type=int, default=2)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure_sweep(Path(folder), arguments.runs, arguments.slots)
        measure_status(Path(folder), 10_000)


if __name__ == "__main__":
    main()
