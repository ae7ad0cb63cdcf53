"""Drawing the masks of a network and repairing their flow, and applying masks, as after every optimizer step."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator

import torch

from benchmarks.hardware_limits import DEVICE, memory_bandwidth, random_number_rate
from benchmarks.interleaved import Measurement, interleave, ratio
from benchmarks.plain_steps import dense_network, settings_of
from ersparse.runs.planner import make_plan
from ersparse.sparse.mask import attach, enforce, masked_weights

MODELS = ["resnet50", "resnet110"]
CELLS = [("move", 0.5), ("move", 0.9), ("move", 0.99), ("move", 0.999), ("add", 0.999)]  # flow repair, sparsity
TARGETS = {("resnet50", "move", 0.99): 1.0, ("resnet50", "add", 0.999): 1.0}  # seconds


def measure(arguments: Namespace) -> Iterator[Measurement]:
    """Yield the measurements of drawing for all models, and of applying masks."""
    for model in arguments.models or MODELS:
        yield from _measure_drawing(model, arguments.rounds or 5)
    yield from _measure_applying(arguments.rounds or 20)


def _measure_drawing(model: str, rounds: int) -> Iterator[Measurement]:
    parts = {}
    for flow, level in CELLS:
        overrides = [f"model={model}", "dataset=cifar10", "sparsity=erk", f"sparsity.level={level}"]
        plan = make_plan(settings_of([*overrides, f"sparsity.flow={flow}"]))
        parts[flow, level] = lambda source=plan.source: source.repair(source.draw())
    floor = sum(layer.size for layer in plan.layers) / random_number_rate()
    for (flow, level), seconds in interleave(parts, rounds).items():
        target = TARGETS.get((model, flow, level))
        yield Measurement(f"masks: {model}, erk {level}, {flow}", seconds, floor, target, " s")


def _measure_applying(rounds: int) -> Iterator[Measurement]:
    settings = settings_of(["model=resnet18", "dataset=cifar10", "sparsity=erk"])
    network = dense_network(settings)
    attach(network, make_plan(settings).source.draw())
    network.to(DEVICE)
    pairs = [(weight.detach(), mask) for weight, mask in masked_weights(network)]
    zero = torch.zeros((), device=DEVICE)
    parts = {
        "enforce": lambda: enforce(network),
        "where": lambda: [torch.where(mask, weight, zero, out=weight) for weight, mask in pairs],
    }
    seconds = interleave(parts, rounds)
    traffic = 9 * sum(mask.numel() for _, mask in pairs)  # bytes: a weight is read and written, its mask is read
    yield Measurement("masks: resnet18, applied", seconds["enforce"], traffic / memory_bandwidth(), unit=" s")
    yield ratio("masks: resnet18, applied / torch.where", seconds["enforce"], seconds["where"])
