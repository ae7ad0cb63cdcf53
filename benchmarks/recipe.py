"""A training step with clipping and averages of the weights, off and on, relative to a dense one."""

from __future__ import annotations

import tempfile
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.interleaved import Measurement, TurnProcess, interleave_processes, ratio
from benchmarks.step import BATCH, STEPS, WARMUP, train_ersparse, write_random_images

FIXED = ["sparsity=erk", "trainer.execution=masked"]
CONFIGS = {
    "dense": ["sparsity=dense"],
    "off": FIXED,
    "on": [*FIXED, "trainer.clip_norm=1", "trainer.ema=0.999", "trainer.swa=0"],
}


def measure(arguments: Namespace) -> Iterator[Measurement]:
    """Yield the measurements of all models; the averages of SWA are made after the steps that are timed."""
    for model in arguments.models or ["resnet20"]:
        with tempfile.TemporaryDirectory() as folder:
            rounds = arguments.rounds or 20
            common = [f"model={model}", "dataset=cifar10", f"dataset.batch_size={BATCH}", f"dataset.root={folder}"]
            common += [f"paths.root={folder}", f"paths.cache={folder}", "trainer.max_epochs=1"]
            write_random_images(Path(folder) / "cifar10.npz", (WARMUP + rounds + 1) * STEPS * BATCH)
            threads = torch.get_num_threads()
            processes = {
                name: TurnProcess(train_ersparse, [*common, *words], threads) for name, words in CONFIGS.items()
            }
            turns = interleave_processes(processes, rounds, WARMUP)
            seconds = {name: [elapsed for elapsed, _ in results] for name, results in turns.items()}
            yield ratio(f"{model}: fixed / dense", seconds["off"], seconds["dense"], at_most=1.01)
            on = f"{model}: fixed with clip_norm, ema, swa / dense"
            yield ratio(on, seconds["on"], seconds["dense"], at_most=1.03)
