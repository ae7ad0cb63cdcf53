"""Synchronised batch normalisation on any device: `torch.nn.SyncBatchNorm` supports GPUs only."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed, nn

from ersparse.distributed.collectives import world_size


class _SumOverRanks(torch.autograd.Function):
    """Sum over ranks. The loss of every rank depends on it, so its gradient is the sum of their gradients."""

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
    """Batch normalisation with the mean and variance over the images of all ranks.

    The ranks may have different numbers of images. Parameters and buffers are those of `nn.BatchNorm2d`.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the images of this rank.

        Args:
            x: [B, C, H, W], with the B images of this rank.

        Returns:
            A tensor of the same shape and dtype.
        """
        if not self.training or world_size() == 1:
            return super().forward(x)
        with torch.autocast(x.device.type, enabled=False):
            return self._normalise(x.to(torch.promote_types(x.dtype, torch.float32))).to(x.dtype)

    def _normalise(self, x: Tensor) -> Tensor:
        count = torch.tensor(float(x.numel() // self.num_features), device=x.device)
        distributed.all_reduce(count)
        mean = _sum_over_ranks(x.sum((0, 2, 3))) / count
        centred = x - _per_channel(mean)
        variance = _sum_over_ranks(centred.square().sum((0, 2, 3))) / count
        self._update_running_statistics(mean.detach(), variance.detach() * count / (count - 1))
        return centred * _per_channel(self.weight * (variance + self.eps).rsqrt()) + _per_channel(self.bias)

    @torch.no_grad()
    def _update_running_statistics(self, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None and self.running_var is not None and self.momentum is not None
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance, self.momentum)
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)


def _sum_over_ranks(x: Tensor) -> Tensor:
    total: Tensor = _SumOverRanks.apply(x)  # type: ignore[no-untyped-call]
    return total


def _per_channel(x: Tensor) -> Tensor:
    """Reshape [C] to [C, 1, 1], which broadcasts over [B, C, H, W]."""
    return x[:, None, None]


def synchronise(network: nn.Module) -> None:
    """Replace every `nn.BatchNorm2d` of `network`, in place, by a `SyncedBatchNorm2d` with the same parameters."""
    for module in list(network.modules()):
        for name, child in module.named_children():
            if type(child) is nn.BatchNorm2d:
                synced = SyncedBatchNorm2d(child.num_features, child.eps, child.momentum).to(child.weight)
                synced.load_state_dict(child.state_dict())
                setattr(module, name, synced)
