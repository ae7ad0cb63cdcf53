"""The fake device itself, and functions of the library on modules that already lie on it."""

import pytest
import torch
from fake_device.tensors import DeviceTensor, Watch, fake_device
from runs.plain import residual

import ersparse
from ersparse.distributed import collectives
from ersparse.lightning.callbacks import ERInit, FlowRepair, SparseInit
from ersparse.sparse import scores
from ersparse.sparse.density import erk
from ersparse.sparse.layers import prunable_layers, prunable_weights
from ersparse.sparse.mask import digest, masks_of
from ersparse.sparse.source import ERSource


@pytest.fixture(autouse=True)
def device():
    with fake_device() as found:
        yield found


def network(device):
    torch.manual_seed(0)
    return residual(10, width=0.5).to(device)


def test_the_share_of_a_global_batch_takes_one_product_and_no_wait(device, monkeypatch):
    """Three of five images, on the first of two ranks: DDP averages over ranks, so that a loss counts 2 * 3 / 5."""
    monkeypatch.setattr(collectives, "world_size", lambda: 2)
    loss = torch.tensor(1.5).to(device)
    with Watch() as seen:
        scaled = collectives.mean_over_ranks(loss, 3, 5)
    assert seen.operations == {"mul": 1} and not seen.waits and float(scaled.cpu()) == pytest.approx(1.8)


def test_the_device_computes_like_the_cpu_and_refuses_what_a_gpu_refuses(device):
    x = torch.arange(6.0).reshape(2, 3)
    there = x.to(device)
    assert torch.equal((there @ there.T).cpu(), x @ x.T) and str(there.device) == "fake:0"
    for refused in (lambda: there + x, lambda: torch.cat([there, x]), lambda: torch.where(there > 0, x, there)):
        with pytest.raises(RuntimeError, match="two devices"):
            refused()
    with pytest.raises(TypeError, match="can't convert"):
        there.numpy()
    assert torch.equal((there + torch.tensor(1.0)).cpu(), x + 1), "a scalar may lie on the host"
    there[0].mul_(2)
    assert torch.equal(there.cpu()[0], 2 * x[0]), "views share memory"


WAITING = {
    "item": lambda x: x.sum().item(),
    "if": lambda x: bool((x > 0).any()),
    "cpu": lambda x: x.cpu(),
    "from a list": lambda x: x.new_tensor([1.0, 2.0]),
    "boolean index": lambda x: x[x > 0],
    "index on the host": lambda x: x[torch.tensor([0, 1])],
    "nonzero": lambda x: x.nonzero(),
    "equal": lambda x: torch.equal(x, x),
    "copy": lambda x: x.copy_(torch.ones(3, 2)),
}
ASYNCHRONOUS = {
    "arithmetic": lambda x: x.mul_(2).sum() + x.new_zeros(()),
    "copy": lambda x: torch.ones(2).to(x.device, non_blocking=True),
    "copy back": lambda x: x.to("cpu", non_blocking=True),
    "fill": lambda x: x.masked_fill_(x > 1, 3.0),
    "index": lambda x: x[x.long()[0]],
}


@pytest.mark.parametrize("name", WAITING)
def test_waits_are_counted_and_refused_during_capture(name, device):
    x = torch.ones(3, 2).to(device)
    with Watch() as seen:
        WAITING[name](x)
    assert seen.waits.total() == 1
    with Watch(refuse_waits=True), pytest.raises(RuntimeError, match="not permitted when stream is capturing"):
        WAITING[name](x)


@pytest.mark.parametrize("name", ASYNCHRONOUS)
def test_asynchronous_operations_are_not_waits(name, device):
    x = torch.ones(3, 2).to(device)
    with Watch() as seen:
        ASYNCHRONOUS[name](x)
    assert not seen.waits and seen.operations


def test_sparsify_masks_a_module_on_the_device_as_on_the_cpu(device):
    expected, _ = ersparse.sparsify(network("cpu"), "erk", 0.8)
    module = network(device)
    masks, _ = ersparse.sparsify(module, "erk", 0.8)
    assert digest(masks) == digest(expected)
    optimizer = torch.optim.SGD(module.parameters(), 0.1, 0.9, fused=True)
    ersparse.keep_masks(module, optimizer)
    module(torch.randn(4, 3, 8, 8).to(device)).logsumexp(1).mean().backward()
    optimizer.step()
    for name, layer in prunable_weights(module).items():
        assert isinstance(layer.weight.data, DeviceTensor) and not (layer.weight.cpu()[~expected[name]]).any()


@pytest.mark.parametrize("callback", ["repair", "init"])
def test_callbacks_act_on_a_module_on_the_device_as_on_the_cpu(callback, device):
    def after(where):
        module = network(where)
        layers = prunable_layers(module)
        source = ERSource(layers, erk(layers, 0.1), 0.1, seed=0)
        for each in (ERInit(source), FlowRepair(source) if callback == "repair" else SparseInit("neuron", 0)):
            each.setup(None, module, "fit")
        return digest(masks_of(module)), [parameter.detach().cpu() for parameter in module.parameters()]

    (mask, weights), (expected_mask, expected) = after(device), after("cpu")
    assert mask == expected_mask and all(map(torch.equal, weights, expected))


@pytest.mark.parametrize("score", ["snip", "grasp", "synflow", "magnitude"])
def test_scores_of_a_network_on_the_device_equal_those_on_the_cpu(score, device):
    def found(where):
        batch = (torch.ones(4, 3, 8, 8).cumsum(3).to(where), torch.arange(4).to(where))
        arguments = {"snip": [[batch]], "grasp": [[batch]], "synflow": [(3, 8, 8)], "magnitude": []}[score]
        return getattr(scores, score)(network(where), *arguments)

    there, here = found(device), found("cpu")
    assert there.keys() == here.keys() and all(torch.equal(there[name].cpu(), here[name]) for name in here)
