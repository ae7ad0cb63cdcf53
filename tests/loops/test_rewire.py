"""Rewiring in a loop of one's own: the loop of the documentation, compared with runs, and the handle."""

import copy
import re

import pytest
import torch
from conftest import ROOT, TINY, read
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

import ersparse
from ersparse.config.groups import build
from ersparse.config.schema import Settings
from ersparse.data.batches import ImageTable, InMemoryDataLoader
from ersparse.data.datamodule import augmentation_of
from ersparse.data.epoch_plan import train_validation_split
from ersparse.data.load import load_arrays
from ersparse.errors import UserError
from ersparse.lightning.auto_settings import memory_format
from ersparse.runs.network import initial_network
from ersparse.sparse.mask import masks_of


class Epochs:
    """The training batches of a run, in the order of the next epoch at each iteration."""

    def __init__(self, settings):
        self.epoch, arrays, data = -1, load_arrays(settings.dataset), settings.dataset
        images = ImageTable.from_images(arrays.x_train, arrays.y_train, data.mean, data.std, torch.device("cpu"))
        index, _ = train_validation_split(len(arrays.y_train), data.validation, settings.seed_of("data"))
        self.loader = InMemoryDataLoader(
            images, index, data.batch_size, seed=settings.seed_of("data"),
            augmentation=augmentation_of(data), epoch=lambda: self.epoch,
        )  # fmt: skip

    def __len__(self):
        return len(self.loader)

    def __iter__(self):
        self.epoch += 1
        for x, y in self.loader:
            yield x.clone(memory_format=self.memory_format), y


LOOPS = {"rigl": ("erk", 0.9, {}), "set": ("erk", 0.9, {}), "granet": ("erk", 0.5, {"final_sparsity": 0.9})}


@pytest.mark.parametrize(
    "method", ["rigl", *(pytest.param(name, marks=pytest.mark.slow) for name in ("set", "granet"))]
)
def test_the_documented_loop_gives_the_network_of_a_run(launch, only_run, method):
    """Masks are equal, and so are the weights, bit for bit."""
    density, level, options = LOOPS[method]
    words = [f"method.{key}={value}" for key, value in options.items()]
    status, printed = launch(
        *TINY, *words, f"method={method}", f"sparsity={density}", f"sparsity.level={level}", "method.delta_t=2",
        "trainer.max_epochs=2", "trainer.precision=32-true", "trainer.execution=masked", "optimizer.gamma=1.0",
    )  # fmt: skip
    assert status == 0, printed
    expected, record = load_file(only_run() / "network.safetensors"), read(only_run())
    settings = build(Settings, record["config"])
    network, loader = initial_network(settings, None), Epochs(settings)
    loader.memory_format = memory_format(network)
    network.to(memory_format=loader.memory_format)
    page = (ROOT / "docs/python-api.md").read_text()
    (block,) = (block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "ersparse.rewire(" in block)
    assert len(block.splitlines()) <= 15
    added = "".join(f", {key}={value}" for key, value in options.items())
    block = block.replace('"rigl", ', f'"{method}", ').replace("level=0.9", f"level={level}")
    block = block.replace("delta_t=2, seed=0", f"delta_t=2, seed=0{added}")
    block = block.replace("weight_decay=5e-4", "weight_decay=5e-4, fused=True")  # as in runs; it rounds differently
    exec(block, {"ersparse": ersparse, "torch": torch, "network": network, "loader": loader, "epochs": 2})
    assert record["mask_sha256"] != record["source_mask_sha256"]
    assert network.state_dict().keys() == expected.keys()
    for name, tensor in network.state_dict().items():
        assert tensor.equal(expected[name]), name


def toy():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 5))
    ersparse.sparsify(network, "uniform", 0.6, flow="none")
    return network


X, Y = torch.randn(8, 6, generator=torch.Generator().manual_seed(1)), torch.arange(8) % 5


def train(network, handle, optimizer, steps, clip=None):
    updated = []
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(network(X), Y).backward()
        if clip:
            for name, mask in masks_of(network).items():
                assert network.get_parameter(name).grad[~mask].eq(0).all()
            nn.utils.clip_grad_norm_(network.parameters(), clip)
        optimizer.step()
        updated.append(handle.step())
        for name, mask in masks_of(network).items():
            assert network.get_parameter(name)[~mask].eq(0).all()
    return [number for number, update in enumerate(updated, 1) if update]


def sgd(network):
    return torch.optim.SGD(network.parameters(), 0.1, momentum=0.9)


OPTIONS = {"steps": 10, "delta_t": 3, "drop_fraction": 0.5, "t_end": 1.0}


@pytest.mark.parametrize("method", ["rigl", "set"])
@pytest.mark.parametrize("clip", [None, 0.1])
def test_updates_keep_counts_and_clipping_sees_kept_weights(method, clip):
    network = toy()
    before = {name: mask.clone() for name, mask in masks_of(network).items()}
    handle = ersparse.rewire(network, optimizer := sgd(network), method, **OPTIONS)
    assert train(network, handle, optimizer, 10, clip) == [3, 6, 9]
    for name, mask in masks_of(network).items():
        assert mask.sum() == before[name].sum() and not mask.equal(before[name])
    handle.remove()
    F.cross_entropy(network(X), Y).backward()
    optimizer.step()
    assert any(network.get_parameter(name)[~mask].ne(0).any() for name, mask in masks_of(network).items())


def test_a_training_that_is_resumed_goes_on():
    whole, network = toy(), toy()
    train(whole, ersparse.rewire(whole, optimizer := sgd(whole), **OPTIONS), optimizer, 8)
    optimizer = sgd(network)
    handle = ersparse.rewire(network, optimizer, **OPTIONS)
    train(network, handle, optimizer, 5)
    saved = copy.deepcopy((network.state_dict(), optimizer.state_dict(), handle.state_dict()))
    other = toy()
    handle = ersparse.rewire(other, optimizer := sgd(other), **OPTIONS)
    for part, state in zip((other, optimizer, handle), saved, strict=True):
        part.load_state_dict(state)
    assert train(other, handle, optimizer, 3) == [1]
    assert all(a.equal(b) for a, b in zip(whole.state_dict().values(), other.state_dict().values(), strict=True))


def test_a_step_that_a_scaler_skips_updates_nothing():
    network = toy()
    handle = ersparse.rewire(network, optimizer := sgd(network), steps=10, delta_t=1)
    F.cross_entropy(network(X), Y).backward()
    assert not handle.step()  # without a step of the optimizer
    optimizer.zero_grad()
    assert train(network, handle, optimizer, 1) == [1]


def test_an_update_in_place_of_the_step():
    network = toy()
    handle = ersparse.rewire(network, optimizer := sgd(network), steps=10, delta_t=2, skip_step=True)
    before = network[0].bias.detach().clone()
    assert train(network, handle, optimizer, 1) == []
    after_first = network[0].bias.detach().clone()
    assert not after_first.equal(before)
    assert len(train(network, handle, optimizer, 1)) == 1
    assert network[0].bias.equal(after_first)


def test_granet_prunes_a_dense_network_to_an_exact_count():
    network = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 5))
    handle = ersparse.rewire(network, optimizer := sgd(network), "granet", steps=12, delta_t=2, final_sparsity=0.75)
    train(network, handle, optimizer, 12)
    assert sum(int(mask.sum()) for mask in masks_of(network).values()) == 22


def test_a_wrapped_network_is_rewired_like_the_network_itself():
    plain, wrapped = toy(), nn.DataParallel(toy())
    train(plain, ersparse.rewire(plain, optimizer := sgd(plain), "set", **OPTIONS), optimizer, 4)
    handle = ersparse.rewire(wrapped, optimizer := sgd(wrapped), "set", **OPTIONS)
    train(wrapped.module, handle, optimizer, 4)
    assert all(mask.equal(masks_of(wrapped)[name]) for name, mask in masks_of(plain).items())


def test_a_delta_t_longer_than_the_training_is_a_warning():
    with pytest.warns(UserWarning, match="delta_t: 100 steps, but rewiring ends with step 7 of 10"):
        ersparse.rewire(network := toy(), sgd(network), steps=10)


@pytest.mark.parametrize(
    "build_network, options, message",
    [
        (lambda: nn.Linear(4, 4), {}, "module=Linear: has no masks; call sparsify first"),
        (toy, {"method": "rig"}, "method=rig: must be one of rigl, set, granet"),
        (toy, {"delta": 3}, "delta=3: no such option; the options are delta_t, "),
        (toy, {"delta_t": 0}, "delta_t=0: must"),
        (toy, {"drop_fraction": 1.5}, "drop_fraction=1.5: must lie in (0, 1)"),
        (toy, {"steps": 0}, "steps=0: must be a positive number"),
        (toy, {"method": "granet", "final_sparsity": 0.2}, "final_sparsity=0.2: must be at least the network's"),
    ],
)
def test_bad_arguments_are_one_line_and_change_nothing(build_network, options, message):
    network = build_network()
    keys, optimizer = list(network.state_dict()), sgd(network)
    with pytest.raises(UserError) as error:
        ersparse.rewire(network, optimizer, **{"steps": 10} | options)
    assert message in str(error.value) and "\n" not in str(error.value)
    assert list(network.state_dict()) == keys and not optimizer._optimizer_step_post_hooks
