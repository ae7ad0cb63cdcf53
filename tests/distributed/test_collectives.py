"""Collective operations of two gloo processes agree with one process on all images."""

import socket

import pytest
import torch
from torch import distributed, multiprocessing, nn

from ersparse.distributed.collectives import assert_same, assert_same_numbers, average_statistics, mean_over_ranks
from ersparse.distributed.sync_batchnorm import SyncedBatchNorm2d, synchronise
from ersparse.models import resnet20
from ersparse.sparse.mask import fingerprint

SPLIT = [5, 8]  # images of each rank


def data():
    random = torch.Generator().manual_seed(0)
    return torch.randn(sum(SPLIT), 3, 4, 4, generator=random, dtype=torch.double) * 2 + 1


def small():
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 2, 2), nn.BatchNorm2d(2)
    ).double()


def step(network, x):
    """Loss with a per-image target, its gradients, and the statistics after one step in training mode."""
    x = x.clone().requires_grad_()
    loss = network(x).square().mul(torch.linspace(1, 2, 2, dtype=torch.double)[:, None, None]).sigmoid().sum((1, 2, 3))
    mean_over_ranks(loss.mean(), len(x), sum(SPLIT)).backward()
    return x.grad, [p.grad for p in network.parameters()], list(network.buffers())


def rank_main(rank, port, results):
    distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    network = small()
    synchronise(network)
    mine = data().split(SPLIT)[rank]
    x_grad, grads, buffers = step(network, mine)
    for grad in grads:  # as DDP does
        distributed.all_reduce(grad)
        grad /= 2
    plain = nn.BatchNorm2d(3).double()
    plain(mine)
    average_statistics(plain)
    try:
        assert_same(str(rank), "their numbers")
        disagree = ""
    except AssertionError as error:
        disagree = str(error)
    assert_same_numbers(torch.tensor([3, -4]), "their numbers")
    with pytest.raises(AssertionError, match="the ranks disagree on their masks"):
        assert_same_numbers(
            fingerprint({"a": torch.arange(9) > rank, "b": torch.ones(4, dtype=torch.bool)}), "their masks"
        )
    torch.save((x_grad / 2, grads, buffers, plain.running_mean, disagree), f"{results}/{rank}.pt")
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    results = tmp_path_factory.mktemp("ranks")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    multiprocessing.spawn(rank_main, (port, results), nprocs=2)
    return [torch.load(results / f"{rank}.pt") for rank in (0, 1)]


def test_synchronised_batchnorm_equals_batchnorm_on_one_rank(two_ranks):
    """Output gradients, parameters' gradients and running statistics, with shares of different sizes."""
    x_grad, grads, buffers = step(small(), data())
    torch.testing.assert_close(torch.cat([two_ranks[0][0], two_ranks[1][0]]), x_grad, rtol=1e-10, atol=1e-12)
    for rank in two_ranks:
        for found, expected in zip(rank[1] + rank[2], grads + buffers, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_running_statistics_are_averaged(two_ranks):
    means = [0.1 * part.mean((0, 2, 3)) for part in data().split(SPLIT)]
    for rank in two_ranks:
        torch.testing.assert_close(rank[3], (means[0] + means[1]) / 2)


def test_a_disagreement_between_ranks_is_reported(two_ranks):
    assert two_ranks[0][4] == "the ranks disagree on their numbers: ['0', '1']"


def test_synchronise_replaces_every_batchnorm_and_nothing_else():
    network, before = resnet20(10), resnet20(10)
    network.load_state_dict(before.state_dict())
    synchronise(network)
    kinds = {type(module) for module in network.modules()}
    assert SyncedBatchNorm2d in kinds and nn.BatchNorm2d not in kinds
    assert network.state_dict().keys() == before.state_dict().keys()
    x = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(network(x), before(x))  # on one rank it is the plain one
