"""Training several seeds of resnet20 on digits together by torch.func.vmap, compared with one after the other.

    python -m benchmarks seeds

Networks are in float32 and contiguous, since the grouped convolutions of vmap are slow in other memory formats.
BatchNorm normalises by the statistics of the batch only.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, stack_module_state, vmap
from torch.nn import functional as F

from benchmarks.hardware_limits import DEVICE
from benchmarks.interleaved import Measurement, interleave, ratio
from ersparse.models import resnet20

BATCH, LR, MOMENTUM = 64, 0.1, 0.9


def measure(arguments: Namespace) -> Iterator[Measurement]:
    """Yield the ratio of both ways for two and five seeds."""
    for count in (2, 5):
        x, y = torch.randn(count, BATCH, 1, 16, 16, device=DEVICE), torch.arange(BATCH, device=DEVICE) % 10
        parts = {"one by one": _one_by_one(_networks(count), x, y), "together": _together(_networks(count), x, y)}
        seconds = interleave(parts, arguments.rounds or 10)
        yield ratio(f"seeds: {count} together / one by one", seconds["together"], seconds["one by one"])


def _networks(count: int) -> list[nn.Module]:
    networks: list[nn.Module] = [resnet20(10, channels=1).to(DEVICE) for _ in range(count)]
    for module in (module for network in networks for module in network.modules()):
        if isinstance(module, nn.BatchNorm2d):
            module.track_running_stats, module.running_mean, module.running_var = False, None, None
            module.num_batches_tracked = None
    return networks


def _one_by_one(networks: list[nn.Module], x: Tensor, y: Tensor) -> Callable[[], None]:
    optimizers = [torch.optim.SGD(each.parameters(), LR, MOMENTUM, fused=True) for each in networks]

    def step() -> None:
        for network, optimizer, images in zip(networks, optimizers, x, strict=True):
            loss = F.cross_entropy(network(images), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return step


def _together(networks: list[nn.Module], x: Tensor, y: Tensor) -> Callable[[], None]:
    weights, buffers = stack_module_state(networks)
    optimizer = torch.optim.SGD(weights.values(), LR, MOMENTUM, fused=True)

    def loss_of(parameters: dict[str, Tensor], images: Tensor) -> Tensor:
        return F.cross_entropy(functional_call(networks[0], (parameters, buffers), (images,)), y)

    gradients = vmap(grad(loss_of))

    def step() -> None:
        for name, gradient in gradients(weights, x).items():
            weights[name].grad = gradient
        optimizer.step()

    return step
