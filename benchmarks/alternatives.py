"""Alternatives to ersparse for sparse training, each in a plain training step, with random masks of density 0.1."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune

from benchmarks.plain_steps import dense_network, dense_step, optimizer_of, plain_step
from ersparse.config.schema import Settings
from ersparse.sparse.layers import prunable_weights

DENSITY = 0.1
Step = Callable[[], None]


def torch_prune_step(settings: Settings) -> Step:
    """Return a step with torch.nn.utils.prune, which multiplies weights by a float mask before each forward pass."""
    network = dense_network(settings)
    for module in [held.module for held in prunable_weights(network).values()]:
        prune.custom_from_mask(module, "weight", torch.rand_like(module.weight) < DENSITY)
    return plain_step(network, optimizer_of(network.parameters(), settings), settings)


class Masked(nn.Module):
    """Parametrisation that multiplies a weight by a random mask."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", torch.rand_like(weight) < DENSITY)

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.mask


def parametrized_step(settings: Settings) -> Step:
    """Return a step with the parametrisation `Masked`."""
    network = dense_network(settings)
    for module in [held.module for held in prunable_weights(network).values()]:
        parametrize.register_parametrization(module, "weight", Masked(module.weight))
    return plain_step(network, optimizer_of(network.parameters(), settings), settings)


class SortedTopK(torch.autograd.Function):
    """Mask of the largest scores by a full sort, as in edge-popup's published code, with straight-through gradients."""

    @staticmethod
    def forward(ctx: object, scores: Tensor) -> Tensor:
        order = scores.flatten().argsort()
        mask = torch.ones_like(order, dtype=scores.dtype)
        mask[order[: int((1 - DENSITY) * len(order))]] = 0
        return mask.reshape(scores.shape)

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return gradient


class Scored(nn.Module):
    """Parametrisation that masks a weight by trainable scores."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.scores = nn.Parameter(torch.randn_like(weight))

    def forward(self, weight: Tensor) -> Tensor:
        return weight * SortedTopK.apply(self.scores.abs())  # type: ignore[no-untyped-call,no-any-return]


def sorted_edge_popup_step(settings: Settings) -> Step:
    """Return a step of edge-popup that sorts the scores of every layer."""
    network = dense_network(settings)
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    for module in [held.module for held in prunable_weights(network).values()]:
        parametrize.register_parametrization(module, "weight", Scored(module.weight))
    trainable = [parameter for parameter in network.parameters() if parameter.requires_grad]
    return plain_step(network, optimizer_of(trainable, settings), settings)


def rigl_torch_step(settings: Settings) -> Step:
    """Return a step with rigl-torch from PyPI, which supports the contiguous memory format only."""
    from rigl_torch.RigL import RigLScheduler

    network = dense_network(settings).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    optimizer = optimizer_of(network.parameters(), settings)
    scheduler = RigLScheduler(
        network, optimizer, dense_allocation=DENSITY, T_end=10**9, delta=int(settings.method["delta_t"]),
        ignore_linear_layers=False,
    )  # fmt: skip

    def optimizer_step() -> None:
        if scheduler():
            optimizer.step()

    return plain_step(lambda x: network(x.contiguous()), optimizer, settings, optimizer_step)


ALTERNATIVES: dict[str, Callable[[Settings], Step]] = {
    "bare": dense_step,
    "torch prune": torch_prune_step,
    "parametrisation": parametrized_step,
    "sorted edge-popup": sorted_edge_popup_step,
    "rigl-torch": rigl_torch_step,
}
