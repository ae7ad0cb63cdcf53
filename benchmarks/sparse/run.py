"""Epochs of a run as `launch.py` starts it, compared with the time that the kernels take in it."""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from typing import Any

from benchmarks.plain_steps import compose_config
from ersparse import run
from ersparse.kernels.program import Program


def timed_calls() -> list[tuple[float, float]]:
    """Return a list to which every call of the kernels from now on appends when it began and ended."""
    calls: list[tuple[float, float]] = []
    execute = Program._run

    def timed(*arguments: Any) -> None:
        begin = time.perf_counter()
        execute(*arguments)
        calls.append((begin, time.perf_counter()))

    Program._run = timed  # type: ignore[method-assign]
    return calls


def compare_run(arguments: argparse.Namespace) -> None:
    """Print the seconds of an epoch with its evaluation, those of its kernels, and their ratio; the median of --rounds.

    The first and the last epoch are left out, which also start and end the run.
    """
    for cell in arguments.cells:
        density, level = cell.split(":")
        epochs = arguments.rounds + 2
        calls = timed_calls()
        with tempfile.TemporaryDirectory() as folder:
            run(compose_config([
                f"model={arguments.model}", "dataset=cifar10", f"dataset.root={os.path.abspath(arguments.data)}",
                f"sparsity={density}", f"sparsity.level={level}", f"dataset.batch_size={arguments.batch}",
                "trainer.execution=sparse", f"trainer.max_epochs={epochs}", "logger=csv", f"paths.root={folder}",
            ]))  # fmt: skip
        size = len(calls) // epochs
        parts = [calls[begin : begin + size + 1] for begin in range(size, size * (epochs - 1), size)]
        walls = [part[-1][0] - part[0][0] for part in parts]
        kernels = [sum(end - begin for begin, end in part[:-1]) for part in parts]
        ratios = [wall / kernel for wall, kernel in zip(walls, kernels, strict=True)]
        print(
            f"{arguments.model} {cell}, an epoch: {statistics.median(walls):.2f} s, its kernels "
            f"{statistics.median(kernels):.2f} s, ratio {statistics.median(ratios):.3f} "
            f"({min(ratios):.3f} to {max(ratios):.3f})",
            flush=True,
        )
