"""What several ranks must agree on: who they are, the gradient, the statistics of normalisation, the masks."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from lightning_fabric.plugins import ClusterEnvironment
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm


class Ranks(ClusterEnvironment):
    """Ranks that were started by the first of them (`ersparse.runs.ranks`), or by a cluster on several nodes."""

    def __init__(self, rank: int, size: int, address: str, port: int, local: int | None = None, node: int = 0) -> None:
        """`address` and `port` of the first rank; `local`, the number on its `node`, is `rank` unless given."""
        super().__init__()
        self.rank, self.size, self.address, self.port = rank, size, address, port
        self.local, self.node = rank if local is None else local, node

    @property
    def creates_processes_externally(self) -> bool:
        return True

    @property
    def main_address(self) -> str:
        return self.address

    @property
    def main_port(self) -> int:
        return self.port

    @staticmethod
    def detect() -> bool:
        return False

    def world_size(self) -> int:
        return self.size

    def set_world_size(self, size: int) -> None:
        assert size == self.size, f"{self.size} ranks were started, the Trainer wants {size}"

    def global_rank(self) -> int:
        return self.rank

    def set_global_rank(self, rank: int) -> None:
        assert rank == self.rank, f"this is rank {self.rank}, the Trainer takes it for {rank}"

    def local_rank(self) -> int:
        return self.local

    def node_rank(self) -> int:
        return self.node


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
