"""A wrapped network has the masks, names and record of the network itself."""

import copy

import pytest
import torch
from lightning_fabric import Fabric
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

import ersparse
from ersparse.sparse.mask import masks_of
from ersparse.sparse.wrappers import named_modules, unwrapped


class Residual(nn.Module):
    """Has an attribute called `module`, which is a part of the names of its layers."""

    def __init__(self):
        super().__init__()
        self.module = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU())
        self.last = nn.Conv2d(8, 8, 3)

    def forward(self, x):
        return self.last(self.module(x))


@pytest.fixture
def process_group(tmp_path):
    distributed.init_process_group("gloo", f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def with_inner(wrap):
    def wrapped(network):
        network.module[0] = wrap(network.module[0])
        network.module = wrap(network.module)
        return network

    return wrapped


def compiled_in_place(network):
    network.module.compile()
    return network


WRAPPERS = {
    "DataParallel": DataParallel,
    "compile": torch.compile,
    "nested": lambda network: DataParallel(torch.compile(AveragedModel(network))),
    "Fabric": lambda network: Fabric(accelerator="cpu", devices=1).setup(network),
    "inner compile": with_inner(torch.compile),
    "inner DataParallel": with_inner(DataParallel),
    "compiled in place": compiled_in_place,
    "DDP": DistributedDataParallel,
    "DDP, compiled": lambda network: torch.compile(DistributedDataParallel(network)),
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_masks_are_those_of_the_network_itself(wrapper, request):
    if wrapper.startswith("DDP"):
        request.getfixturevalue("process_group")
    torch.manual_seed(0)
    plain = Residual()
    wrapped = WRAPPERS[wrapper](copy.deepcopy(plain))
    expected, record = ersparse.sparsify(plain, "erk", 0.7, seed=3)
    found, theirs = ersparse.sparsify(wrapped, "erk", 0.7, seed=3)
    assert record == theirs and list(found) == list(expected) == ["module.0.weight", "last.weight"]
    assert all(mask.equal(expected[name]) for name, mask in found.items())
    assert masks_of(wrapped).keys() == expected.keys()
    assert len(dict(named_modules(wrapped))) == len(dict(plain.named_modules()))
    assert type(unwrapped(wrapped)) is Residual


def test_a_network_that_is_wrapped_later_keeps_its_masks(process_group):
    """The gradients of removed weights are zero before the ranks exchange them."""
    network = Residual()
    masks, _ = ersparse.sparsify(network, "uniform", 0.5)
    wrapped = DistributedDataParallel(network, gradient_as_bucket_view=True)
    optimizer = torch.optim.SGD(wrapped.parameters(), 0.1, momentum=0.9)
    handle = ersparse.keep_masks(wrapped, optimizer)
    for _ in range(2):
        optimizer.zero_grad(set_to_none=False)
        wrapped(torch.ones(2, 3, 8, 8)).square().mean().backward()
        for name, mask in masks.items():
            assert network.get_parameter(name).grad[~mask].eq(0).all()
            assert network.get_parameter(name).grad[mask].ne(0).any()
        optimizer.step()
    handle.remove()
    ersparse.remove_masks(torch.compile(wrapped))
    assert not masks_of(network)


@pytest.mark.parametrize("masked", [True, False])
def test_sharded_networks_are_refused(process_group, masked):
    network = nn.Sequential(nn.Linear(4, 4))
    if masked:
        ersparse.sparsify(network, "uniform", 0.5)
    fully_shard(network, mesh=init_device_mesh("cpu", (1,)))
    with pytest.raises(ersparse.UserError, match=r"0.weight is sharded over devices \(DTensor\), must be whole"):
        if masked:
            ersparse.keep_masks(network, torch.optim.SGD(network.parameters(), 0.1))
        else:
            ersparse.sparsify(network, "uniform", 0.5)
