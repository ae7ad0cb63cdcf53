"""Drawing the masks of a whole network and repairing their flow."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator

from benchmarks.machine import random_numbers
from benchmarks.networks import settings_of
from benchmarks.turns import Figure, in_turns
from ersparse.runs.plan import plan

MODELS = ["resnet50", "resnet110"]
CELLS = [("move", 0.5), ("move", 0.9), ("move", 0.99), ("move", 0.999), ("add", 0.999)]
LIMITED = {("resnet50", "move", 0.99), ("resnet50", "add", 0.999)}


def figures(asked: Namespace) -> Iterator[Figure]:
    for model in asked.models or MODELS:
        parts = {}
        for flow, level in CELLS:
            words = [f"model={model}", "dataset=cifar10", "sparsity=erk", f"sparsity.level={level}"]
            planned = plan(settings_of([*words, f"sparsity.flow={flow}"]))
            source = planned.source
            assert source
            parts[flow, level] = lambda source=source: source.repair(source.draw())
        floor = sum(layer.size for layer in planned.layers) / random_numbers()
        for (flow, level), seconds in in_turns(parts, asked.rounds or 5).items():
            most = 1.0 if (model, flow, level) in LIMITED else None
            yield Figure(f"masks: {model}, erk {level}, {flow}", seconds, floor, most, " s")
