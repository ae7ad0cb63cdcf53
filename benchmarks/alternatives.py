"""What a user could take in place of ersparse, each around a plain training step; masks keep a tenth."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune

from benchmarks.networks import dense, dense_step, optimizer_of, plain_step
from ersparse.config.schema import Settings
from ersparse.sparse.layers import prunable_modules

KEPT = 0.1
Step = Callable[[], None]


def pruned(settings: Settings) -> Step:
    """torch.nn.utils.prune: weight_orig times a float mask before every forward pass."""
    network = dense(settings)
    for module in prunable_modules(network).values():
        prune.custom_from_mask(module, "weight", torch.rand_like(module.weight) < KEPT)
    return plain_step(network, optimizer_of(network.parameters(), settings), settings)


class Masked(nn.Module):
    """A parametrisation that multiplies by a mask."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", torch.rand_like(weight) < KEPT)

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.mask


def parametrised(settings: Settings) -> Step:
    """torch.nn.utils.parametrize with `Masked`."""
    network = dense(settings)
    for module in prunable_modules(network).values():
        parametrize.register_parametrization(module, "weight", Masked(module.weight))
    return plain_step(network, optimizer_of(network.parameters(), settings), settings)


class SortedTop(torch.autograd.Function):
    """The mask of the largest scores by a full sort, as in the code published with edge-popup; straight through."""

    @staticmethod
    def forward(ctx: object, scores: Tensor) -> Tensor:
        order = scores.flatten().argsort()
        mask = torch.ones_like(order, dtype=scores.dtype)
        mask[order[: int((1 - KEPT) * len(order))]] = 0
        return mask.reshape(scores.shape)

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return gradient


class Popup(nn.Module):
    """A parametrisation by scores of its own."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.scores = nn.Parameter(torch.randn_like(weight))

    def forward(self, weight: Tensor) -> Tensor:
        return weight * SortedTop.apply(self.scores.abs())  # type: ignore[no-untyped-call,no-any-return]


def sorted_popup(settings: Settings) -> Step:
    """Edge-popup that sorts every layer's scores in every step."""
    network = dense(settings)
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    for module in prunable_modules(network).values():
        parametrize.register_parametrization(module, "weight", Popup(module.weight))
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    return plain_step(network, optimizer_of(trained, settings), settings)


def rigl_torch(settings: Settings) -> Step:
    """rigl-torch of PyPI, which takes no other layout than the contiguous one."""
    from rigl_torch.RigL import RigLScheduler

    network = dense(settings).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    optimizer = optimizer_of(network.parameters(), settings)
    scheduler = RigLScheduler(
        network, optimizer, dense_allocation=KEPT, T_end=10**9, delta=int(settings.method["delta_t"]),
        ignore_linear_layers=False,
    )  # fmt: skip

    def step() -> None:
        if scheduler():
            optimizer.step()

    return plain_step(lambda x: network(x.contiguous()), optimizer, settings, step)


ALTERNATIVES: dict[str, Callable[[Settings], Step]] = {
    "bare": dense_step,
    "torch prune": pruned,
    "parametrisation": parametrised,
    "sorted edge-popup": sorted_popup,
    "rigl-torch": rigl_torch,
}
