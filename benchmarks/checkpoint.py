"""Saving and loading a checkpoint of resnet18 with momentum and masks, compared with torch.save and torch.load."""

from __future__ import annotations

import tempfile
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.hardware_limits import write_seconds
from benchmarks.interleaved import Measurement, interleave, ratio
from benchmarks.plain_steps import settings_of
from ersparse.runs.network import build_network
from ersparse.runs.planner import make_plan
from ersparse.sparse.mask import attach
from ersparse.storage.checkpoints import CheckpointFiles


def measure(arguments: Namespace) -> Iterator[Measurement]:
    """Yield the measurements of saving and loading."""
    plan = make_plan(settings_of(["model=resnet18", "dataset=cifar10", "sparsity=erk"]))
    network = build_network(plan.settings, plan.init_from)
    attach(network, plan.source.draw())
    momentum = {name: torch.zeros_like(parameter) for name, parameter in network.named_parameters()}
    content = {"state_dict": network.state_dict(), "momentum": momentum}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = CheckpointFiles(folder / "checkpoints", "benchmark")

        def load_latest() -> None:
            found = files.latest()
            assert found
            torch.load(found[1], weights_only=True)

        parts = {
            "save": lambda: files.write(content, files.intended(1)),
            "torch.save": lambda: torch.save(content, folder / "plain.ckpt"),
            "load": load_latest,
            "torch.load": lambda: torch.load(folder / "plain.ckpt", weights_only=True),
        }
        seconds = interleave(parts, arguments.rounds or 10)
        floor = write_seconds(folder, (folder / "plain.ckpt").stat().st_size)
    yield Measurement("checkpoint: save, resnet18", seconds["save"], floor, unit=" s")
    yield ratio("checkpoint: save / torch.save", seconds["save"], seconds["torch.save"])
    yield ratio("checkpoint: load / torch.load", seconds["load"], seconds["torch.load"])
