"""Batch normalisation over the images of all ranks, on any device: PyTorch's own refuses CPUs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed, nn

from ersparse.distributed.collectives import world_size


class _Sum(torch.autograd.Function):
    """The sum over ranks. Each rank's loss depends on it, so that its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        total = gradient.clone()
        distributed.all_reduce(total)
        return total


class SyncedBatchNorm2d(nn.BatchNorm2d):
    """As nn.BatchNorm2d, with mean and variance over all ranks' images; their shares may differ in size."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W], B on this rank, to the same shape and type."""
        if not self.training or world_size() == 1:
            return super().forward(x)
        with torch.autocast(x.device.type, enabled=False):
            return self._normalise(x.to(torch.promote_types(x.dtype, torch.float32))).to(x.dtype)

    def _normalise(self, x: Tensor) -> Tensor:
        count = torch.tensor(float(x.numel() // self.num_features), device=x.device)
        distributed.all_reduce(count)
        mean = _sum(x.sum((0, 2, 3))) / count
        centred = x - _per_channel(mean)
        variance = _sum(centred.square().sum((0, 2, 3))) / count
        self._remember(mean.detach(), variance.detach() * count / (count - 1))
        return centred * _per_channel(self.weight * (variance + self.eps).rsqrt()) + _per_channel(self.bias)

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None and self.running_var is not None and self.momentum is not None
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance, self.momentum)
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)


def _sum(x: Tensor) -> Tensor:
    total: Tensor = _Sum.apply(x)  # type: ignore[no-untyped-call]
    return total


def _per_channel(x: Tensor) -> Tensor:
    return x[:, None, None]


def synchronise(network: nn.Module) -> None:
    """Replaces every nn.BatchNorm2d in `network` by one over all ranks, with the same parameters and names."""
    for module in list(network.modules()):
        for name, child in module.named_children():
            if type(child) is nn.BatchNorm2d:
                synced = SyncedBatchNorm2d(child.num_features, child.eps, child.momentum).to(child.weight)
                synced.load_state_dict(child.state_dict())
                setattr(module, name, synced)
