"""Networks built from ersparse's configuration, and the plain training step to which others are compared."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.hardware_limits import DEVICE
from ersparse.config.groups import build
from ersparse.config.options import CONF
from ersparse.config.schema import Settings
from ersparse.lightning.auto_settings import memory_format, resolve
from ersparse.runs.network import build_network
from ersparse.runs.planner import make_plan


def compose_config(overrides: Sequence[str]) -> dict[str, Any]:
    """Return the resolved configuration for command-line overrides."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        values = OmegaConf.to_container(compose("config", list(overrides)), resolve=True)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def settings_of(overrides: Sequence[str]) -> Settings:
    """Return the validated settings for command-line overrides."""
    return build(Settings, compose_config(overrides))


def dense_network(settings: Settings) -> nn.Module:
    """Return the network without masks, on the device, in the memory format that ersparse chooses."""
    network = build_network(settings, make_plan(settings).init_from)
    return network.to(DEVICE, memory_format=memory_format(network)).train()  # type: ignore[call-overload,no-any-return]


def optimizer_of(parameters: Iterable[nn.Parameter], settings: Settings) -> torch.optim.Optimizer:
    """Return fused SGD with the configured hyperparameters."""
    o = settings.optimizer
    return torch.optim.SGD(parameters, o.lr, o.momentum, weight_decay=o.weight_decay, fused=True)


def random_batch(settings: Settings) -> tuple[Tensor, Tensor]:
    """Return random images and labels in the shape of a batch of the data set."""
    d = settings.dataset
    x = torch.randn(d.batch_size, d.channels, d.image_size, d.image_size, device=DEVICE)
    return x.contiguous(memory_format=torch.channels_last), torch.arange(d.batch_size, device=DEVICE) % d.num_classes


def uses_bfloat16(settings: Settings) -> bool:
    """Return whether the run trains in bfloat16 on this machine."""
    return bool(resolve(settings.trainer)["precision"] == "bf16-mixed")


def plain_step(
    forward: Callable[[Tensor], Tensor],
    optimizer: torch.optim.Optimizer,
    settings: Settings,
    optimizer_step: Callable[[], object] | None = None,
) -> Callable[[], None]:
    """Return a training step on one prepared batch, without data loading, metrics or masks.

    Args:
        forward: computes logits [B, classes] of images.
        optimizer: whose gradients are set to zero.
        settings: batch size and precision.
        optimizer_step: replaces `optimizer.step`.
    """
    x, y = random_batch(settings)
    bfloat16 = uses_bfloat16(settings)

    def step() -> None:
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=bfloat16):
            loss = F.cross_entropy(forward(x), y)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        (optimizer_step or optimizer.step)()

    return step


def dense_step(settings: Settings) -> Callable[[], None]:
    """Return a plain training step of the dense network."""
    network = dense_network(settings)
    return plain_step(network, optimizer_of(network.parameters(), settings), settings)
