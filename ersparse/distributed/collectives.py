"""Collective operations over the ranks of a run. Without a process group they act on the one rank there is."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm


def world_size() -> int:
    """Return the number of ranks, which is 1 outside a distributed run."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def mean_over_ranks(loss: Tensor, count: int, total: int) -> Tensor:
    """Scale the loss of this rank so that DDP's average over ranks is the mean over all images of the global batch.

    The ranks' shares of a batch differ by one image if the number of ranks does not divide the batch size. Every rank
    knows the size of the global batch, so that nothing is communicated.

    Args:
        loss: scalar, the mean over this rank's images.
        count: number of images on this rank.
        total: number of images on all ranks.
    """
    ranks = world_size()
    return loss if ranks == 1 else loss * (count * ranks / total)


@torch.no_grad()
def average(tensors: Iterable[Tensor]) -> None:
    """Replace each tensor, in place, by its mean over ranks."""
    ranks = world_size()
    for tensor in tensors if ranks > 1 else ():
        distributed.all_reduce(tensor)
        tensor.div_(ranks)


@torch.no_grad()
def average_statistics(network: nn.Module) -> None:
    """Replace the running means and variances of BatchNorm, in place, by their means over ranks.

    Each rank has gathered them on its own images.
    """
    for module in network.modules():
        if isinstance(module, _BatchNorm) and module.track_running_stats:
            assert module.running_mean is not None and module.running_var is not None
            average([module.running_mean, module.running_var])


def assert_same(value: str, what: str) -> None:
    """Check that `value` is the same on all ranks.

    Args:
        value: this rank's value.
        what: its name, for the error message.

    Raises:
        AssertionError: the values differ.
    """
    values: list[str | None] = [None] * world_size()
    if len(values) > 1:
        distributed.all_gather_object(values, value)
        assert len(set(values)) == 1, f"the ranks disagree on {what}: {values}"


def assert_same_numbers(values: Tensor, what: str) -> None:
    """Check that an int64 tensor is the same on all ranks, by one collective operation on its device.

    Args:
        values: this rank's values.
        what: their name, for the error message.

    Raises:
        AssertionError: the values differ.
    """
    if world_size() > 1:
        largest = torch.stack([values, ~values])  # the largest ~x belongs to the smallest x
        distributed.all_reduce(largest, distributed.ReduceOp.MAX)
        assert torch.equal(largest[0], ~largest[1]), f"the ranks disagree on {what}"


def any_over_ranks(flags: Tensor) -> Tensor:
    """Return the elementwise logical "or" of the boolean tensor `flags` over ranks, in the same shape."""
    if world_size() == 1:
        return flags
    counts = flags.to(torch.int32)
    distributed.all_reduce(counts)
    return counts > 0
