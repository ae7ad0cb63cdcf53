"""What a sweep adds to its runs, and how long status takes: python -m benchmarks.sweeps [--runs 20] [--slots 2]

The bare runs come one after the other, each on the cores that a slot has; a sweep should take their sum over the slots.
Then `ersparse status` looks at 10 000 run folders.
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

from ersparse.sweep.local.slots import cores_of, environment, slots_of, this_machine

ROOT = Path(__file__).resolve().parent.parent
WORDS = ["trainer.max_epochs=5", "model.width=0.5"]


def seconds(*words: str, **options: object) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL, cwd=ROOT, **options)  # type: ignore[call-overload]
    return time.perf_counter() - began


def overhead(folder: Path, runs: int, slots: int) -> None:
    cores, gib = this_machine()
    slot = slots_of(slots, 1, [], cores, gib)[:1]
    outer = os.environ.copy()
    os.sched_setaffinity(0, cores_of(slot))  # the children inherit it
    bare = [
        seconds("launch.py", *WORDS, f"seed={seed}", f"paths.root={folder}/bare", env=environment(outer, slot, 1))
        for seed in range(runs)
    ]
    os.sched_setaffinity(0, cores)
    sweep = ["-m", *WORDS, f"seed=range(0,{runs})", f"paths.root={folder}/sweep", f"hydra.launcher.slots={slots}"]
    took = seconds("launch.py", *sweep, env=outer)
    again = seconds("launch.py", *sweep, env=outer)
    print(f"bare runs: n={runs}, mean {sum(bare) / runs:.2f} s, from {min(bare):.2f} to {max(bare):.2f} s")
    ratio = took * slots / sum(bare)
    print(f"their sum over {slots} slots {sum(bare) / slots:.1f} s; the sweep {took:.1f} s, {ratio:.3f} of it")
    print(f"the sweep again, with nothing to do: {again:.1f} s")


def status(folder: Path, runs: int) -> None:
    record = json.loads(next((folder / "sweep").rglob("run.json")).read_text())
    for number in range(runs):
        run = folder / "many" / "runs" / f"net{number // 5}" / f"s{number % 5}"
        run.mkdir(parents=True)
        state = "running" if number % 100 == 0 else "done"
        (run / "run.json").write_text(json.dumps(record | {"state": state}, indent=1))
        (run / ".lock").touch()
    print(f"status over {runs} runs: {seconds('-m', 'ersparse', 'status', f'{folder}/many'):.2f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--slots", type=int, default=2)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        overhead(Path(folder), asked.runs, asked.slots)
        status(Path(folder), 10_000)


if __name__ == "__main__":
    main()
