"""A training step of ersparse's runs with torch.compile, compared with one without; compilation takes minutes."""

from __future__ import annotations

import tempfile
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.interleaved import Measurement, TurnProcess, interleave_processes, ratio
from benchmarks.step import BATCH, STEPS, WARMUP, train_ersparse, write_random_images


def measure(arguments: Namespace) -> Iterator[Measurement]:
    """Yield the ratio of compiled to masked execution for each model."""
    for model in arguments.models or ["resnet20"]:
        with tempfile.TemporaryDirectory() as folder:
            yield _measure_model(model, Path(folder), arguments.rounds or 20)


def _measure_model(model: str, folder: Path, rounds: int) -> Measurement:
    write_random_images(folder / "cifar10.npz", (WARMUP + rounds + 1) * STEPS * BATCH)
    common = [f"model={model}", "dataset=cifar10", f"dataset.batch_size={BATCH}", f"dataset.root={folder}"]
    common += [f"paths.cache={folder}", "trainer.max_epochs=1", "sparsity=erk"]
    processes = {
        execution: TurnProcess(
            train_ersparse,
            [*common, f"trainer.execution={execution}", f"paths.root={folder}/{execution}"],
            torch.get_num_threads(),
        )
        for execution in ("masked", "compiled")
    }
    turns = interleave_processes(processes, rounds, WARMUP)
    seconds = {name: [elapsed for elapsed, _ in results] for name, results in turns.items()}
    return ratio(f"{model}: fixed, compiled / masked", seconds["compiled"], seconds["masked"])
