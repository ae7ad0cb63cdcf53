"""Collective operations: what the ranks of a run must agree on."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm


def world_size() -> int:
    """How many ranks there are; 1 outside a distributed run."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def mean_over_ranks(loss: Tensor, count: int) -> Tensor:
    """`loss`, a mean over this rank's `count` images, scaled so that DDP's average is the mean over all images.

    The ranks' shares of a batch differ by an image where the batch does not divide evenly.
    """
    ranks = world_size()
    if ranks == 1:
        return loss
    total = loss.new_tensor(count, dtype=torch.promote_types(loss.dtype, torch.float32))
    distributed.all_reduce(total)
    return loss * (count * ranks / total)


@torch.no_grad()
def average(tensors: Iterable[Tensor]) -> None:
    """Gives all ranks the mean of each of their tensors, in place."""
    ranks = world_size()
    for tensor in tensors if ranks > 1 else ():
        distributed.all_reduce(tensor)
        tensor.div_(ranks)


@torch.no_grad()
def average_statistics(network: nn.Module) -> None:
    """Gives all ranks the mean of their running means and variances, which each gathered on its own images."""
    for module in network.modules():
        if isinstance(module, _BatchNorm) and module.track_running_stats:
            assert module.running_mean is not None and module.running_var is not None
            average([module.running_mean, module.running_var])


def assert_same(value: str, what: str) -> None:
    """Compares `value` across ranks.

    Raises:
        AssertionError: `what` differs.
    """
    found: list[str | None] = [None] * world_size()
    if len(found) > 1:
        distributed.all_gather_object(found, value)
        assert len(set(found)) == 1, f"the ranks disagree on {what}: {found}"


def any_over_ranks(flags: Tensor) -> Tensor:
    """Where any rank's boolean `flags` are true."""
    if world_size() == 1:
        return flags
    counts = flags.to(torch.int32)
    distributed.all_reduce(counts)
    return counts > 0
