"""One rewiring update of every layer beside a training step, and beside an update that sorts."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator

import torch

from benchmarks.hardware_limits import DEVICE, bandwidth
from benchmarks.interleaved import Figure, in_turns, ratio
from benchmarks.networks import dense, plain_step, settings_of
from ersparse.lightning.callbacks.rewiring import Rewiring
from ersparse.runs.planner import make_plan
from ersparse.sparse.mask import attach, enforce, masks_of


def by_sorting(network: torch.nn.Module, share: float) -> None:
    """Finds what an update changes, with two full sorts a layer, as published implementations do; changes nothing."""
    for name, mask in masks_of(network).items():
        weight = network.get_parameter(name)
        count = int(share * int(mask.sum()))
        order = torch.where(mask, weight.detach().abs(), -1.0).flatten().argsort(descending=True)
        kept = torch.zeros(mask.numel(), dtype=torch.bool, device=mask.device)
        kept[order[: int(mask.sum()) - count]] = True
        assert weight.grad is not None
        gradient = torch.where(kept.reshape(mask.shape), -1.0, weight.grad.abs())
        kept[gradient.flatten().argsort(descending=True)[:count]] = True


def figures(asked: Namespace) -> Iterator[Figure]:
    for model in asked.models or ["resnet18", "vgg16"]:
        yield from _of_model(model, asked.rounds or 8)


def _of_model(model: str, rounds: int) -> Iterator[Figure]:
    settings = settings_of([f"model={model}", "dataset=cifar10", "sparsity=erk", "method=rigl"])
    planned = make_plan(settings)
    network = dense(settings)
    attach(network, planned.source.draw())
    enforce(network)
    network.to(DEVICE)
    rewiring = next(each for each in planned.method.callbacks(planned) if isinstance(each, Rewiring))
    rewiring.listeners, rewiring.last_rewiring = [], 1e9
    optimizer = torch.optim.SGD(network.parameters(), 0.0, 0.9, fused=True)
    parts = {
        "step": plain_step(network, optimizer, settings),
        "update": lambda: rewiring._maybe_update(rewiring.rules.delta_t, network, optimizer.state),
        "sorted": lambda: by_sorting(network, 0.3),
    }
    seconds = in_turns(parts, rounds)
    traffic = 20 * sum(layer.size for layer in planned.layers)  # weights, gradients, masks; momentum
    yield Figure(f"rewiring: {model}, an update", seconds["update"], traffic / bandwidth(), unit=" s")
    yield ratio(f"rewiring: {model}, an update / step", seconds["update"], seconds["step"])
    yield ratio(f"rewiring: {model}, a sorted update / step", seconds["sorted"], seconds["step"])
