"""Drawing the masks of a whole network and repairing their flow; and applying them, as every training step does."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator

import torch

from benchmarks.hardware_limits import DEVICE, bandwidth, random_numbers
from benchmarks.interleaved import Figure, in_turns, ratio
from benchmarks.networks import dense, settings_of
from ersparse.runs.planner import make_plan
from ersparse.sparse.mask import attach, enforce, masked_weights

MODELS = ["resnet50", "resnet110"]
CELLS = [("move", 0.5), ("move", 0.9), ("move", 0.99), ("move", 0.999), ("add", 0.999)]
LIMITED = {("resnet50", "move", 0.99), ("resnet50", "add", 0.999)}


def figures(asked: Namespace) -> Iterator[Figure]:
    for model in asked.models or MODELS:
        parts = {}
        for flow, level in CELLS:
            words = [f"model={model}", "dataset=cifar10", "sparsity=erk", f"sparsity.level={level}"]
            planned = make_plan(settings_of([*words, f"sparsity.flow={flow}"]))
            source = planned.source
            assert source
            parts[flow, level] = lambda source=source: source.repair(source.draw())
        floor = sum(layer.size for layer in planned.layers) / random_numbers()
        for (flow, level), seconds in in_turns(parts, asked.rounds or 5).items():
            most = 1.0 if (model, flow, level) in LIMITED else None
            yield Figure(f"masks: {model}, erk {level}, {flow}", seconds, floor, most, " s")
    yield from _applied(asked.rounds or 20)


def _applied(rounds: int) -> Iterator[Figure]:
    """Those of resnet18, beside torch.where."""
    settings = settings_of(["model=resnet18", "dataset=cifar10", "sparsity=erk"])
    source = make_plan(settings).source
    assert source
    network = dense(settings)
    attach(network, source.draw())
    network.to(DEVICE)
    pairs = [(weight.detach(), mask) for weight, mask in masked_weights(network)]
    zero = torch.zeros((), device=DEVICE)
    parts = {
        "enforce": lambda: enforce(network),
        "where": lambda: [torch.where(mask, weight, zero, out=weight) for weight, mask in pairs],
    }
    seconds = in_turns(parts, rounds)
    floor = 9 * sum(mask.numel() for _, mask in pairs) / bandwidth()  # a weight is read and written, a mask read
    yield Figure("masks: resnet18, applied", seconds["enforce"], floor, unit=" s")
    yield ratio("masks: resnet18, applied / torch.where", seconds["enforce"], seconds["where"])
