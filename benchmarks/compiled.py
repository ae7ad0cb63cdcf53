"""A training step with torch.compile beside one without, both of ersparse's own runs; compiling takes minutes."""

from __future__ import annotations

import tempfile
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.interleaved import Figure, Player, players_in_turns, ratio
from benchmarks.step import BATCH, STEPS, WARM, ours, write_images


def figures(asked: Namespace) -> Iterator[Figure]:
    rounds = asked.rounds or 20
    for model in asked.models or ["resnet20"]:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write_images(folder / "cifar10.npz", (WARM + rounds + 1) * STEPS * BATCH)
            common = [f"model={model}", "dataset=cifar10", f"dataset.batch_size={BATCH}", f"dataset.root={folder}"]
            common += [f"paths.cache={folder}", "trainer.max_epochs=1", "sparsity=erk"]
            players = {
                execution: Player(
                    ours,
                    [*common, f"trainer.execution={execution}", f"paths.root={folder}/{execution}"],
                    torch.get_num_threads(),
                )
                for execution in ("masked", "compiled")
            }
            turns = players_in_turns(players, rounds, WARM)
        seconds = {name: [took for took, _ in found] for name, found in turns.items()}
        yield ratio(f"{model}: fixed, compiled / masked", seconds["compiled"], seconds["masked"])
