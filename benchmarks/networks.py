"""Networks of ersparse's settings, and the plain training step that others are measured against."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.hardware_limits import DEVICE
from ersparse.config.options import CONF
from ersparse.config.schema import Settings, build
from ersparse.lightning.auto_settings import memory_format, resolve
from ersparse.runs.network import build_network
from ersparse.runs.planner import make_plan


def composed(words: Sequence[str]) -> dict[str, Any]:
    """What a command line of these words composes to."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        values = OmegaConf.to_container(compose("config", list(words)), resolve=True)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def settings_of(words: Sequence[str]) -> Settings:
    return build(Settings, composed(words))


def dense(settings: Settings) -> nn.Module:
    """The network, in the layout that ersparse chooses, on the device."""
    network = build_network(settings, make_plan(settings).init_from)
    return network.to(DEVICE, memory_format=memory_format(network)).train()  # type: ignore[call-overload,no-any-return]


def optimizer_of(trained: Iterable[nn.Parameter], settings: Settings) -> torch.optim.Optimizer:
    o = settings.optimizer
    return torch.optim.SGD(trained, o.lr, o.momentum, weight_decay=o.weight_decay, fused=True)


def batch_of(settings: Settings) -> tuple[Tensor, Tensor]:
    """One random batch in the shape of the data."""
    d = settings.dataset
    x = torch.randn(d.batch_size, d.channels, d.image_size, d.image_size, device=DEVICE)
    return x.contiguous(memory_format=torch.channels_last), torch.arange(d.batch_size, device=DEVICE) % d.num_classes


def bfloat16(settings: Settings) -> bool:
    return bool(resolve(settings.trainer)["precision"] == "bf16-mixed")


def plain_step(
    forward: Callable[[Tensor], Tensor], optimizer: torch.optim.Optimizer, settings: Settings, step: Any = None
) -> Callable[[], None]:
    """A training step on one prepared batch: no data, metrics or masks; `step` in place of the optimizer's own."""
    x, y = batch_of(settings)
    half = bfloat16(settings)

    def whole_step() -> None:
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=half):
            loss = F.cross_entropy(forward(x), y)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        (step or optimizer.step)()

    return whole_step


def dense_step(settings: Settings) -> Callable[[], None]:
    network = dense(settings)
    return plain_step(network, optimizer_of(network.parameters(), settings), settings)
