"""A rewiring update of all layers, compared with a training step and with an update by sorting."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator

import torch

from benchmarks.hardware_limits import DEVICE, memory_bandwidth
from benchmarks.interleaved import Measurement, interleave, ratio
from benchmarks.plain_steps import dense_network, plain_step, settings_of
from ersparse.lightning.callbacks.rewiring import Rewiring
from ersparse.runs.planner import make_plan
from ersparse.sparse.mask import attach, enforce, masks_of


def sort_update(network: torch.nn.Module, fraction: float) -> None:
    """Select the weights to drop and to grow by two full sorts per layer, as published implementations do.

    The masks are not changed.
    """
    for name, mask in masks_of(network).items():
        weight = network.get_parameter(name)
        count = int(fraction * int(mask.sum()))
        order = torch.where(mask, weight.detach().abs(), -1.0).flatten().argsort(descending=True)
        kept = torch.zeros(mask.numel(), dtype=torch.bool, device=mask.device)
        kept[order[: int(mask.sum()) - count]] = True
        assert weight.grad is not None
        gradient = torch.where(kept.reshape(mask.shape), -1.0, weight.grad.abs())
        kept[gradient.flatten().argsort(descending=True)[:count]] = True


def measure(arguments: Namespace) -> Iterator[Measurement]:
    """Yield the measurements of all models."""
    for model in arguments.models or ["resnet18", "vgg16"]:
        yield from _measure_model(model, arguments.rounds or 8)


def _measure_model(model: str, rounds: int) -> Iterator[Measurement]:
    settings = settings_of([f"model={model}", "dataset=cifar10", "sparsity=erk", "method=rigl"])
    plan = make_plan(settings)
    network = dense_network(settings)
    attach(network, plan.source.draw())
    enforce(network)
    network.to(DEVICE)
    rewiring = next(each for each in plan.method.callbacks(plan) if isinstance(each, Rewiring))
    rewiring.listeners, rewiring.rewiring_end = [], 1e9
    optimizer = torch.optim.SGD(network.parameters(), 0.0, 0.9, fused=True)
    parts = {
        "step": plain_step(network, optimizer, settings),
        "update": lambda: rewiring.update_and_report(rewiring.rules.delta_t, network, optimizer.state),
        "sorted": lambda: sort_update(network, 0.3),
    }
    seconds = interleave(parts, rounds)
    traffic = 20 * sum(layer.size for layer in plan.layers)  # bytes of weights, gradients, masks and momentum
    yield Measurement(f"rewiring: {model}, an update", seconds["update"], traffic / memory_bandwidth(), unit=" s")
    yield ratio(f"rewiring: {model}, an update / step", seconds["update"], seconds["step"])
    yield ratio(f"rewiring: {model}, a sorted update / step", seconds["sorted"], seconds["step"])
