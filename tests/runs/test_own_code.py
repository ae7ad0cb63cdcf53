"""Code of the user's that raises, or returns something else: one line before a run starts, a failed run afterwards."""

import sys

import pytest
from conftest import TINY, read

CODE = """
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from ersparse.methods.fixed import Fixed

def net(num_classes, channels):
    if torch.empty(0).device.type == "cpu" and LATE:
        raise ValueError("no luck with the first weights")
    return nn.Sequential(nn.Conv2d(channels, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, num_classes))

LATE = False
def images(root, download): return {}["images"]
def unopened(root, download): return open("/nowhere/images.npz")
def tensors(root, download): return torch.zeros(3)
def density(layers, density): return {}["density"]
def one(layers, density): return [density]
def nan(layers, density): return [float("nan")] * len(layers)
def percents(layers, density): return [100 * density] * len(layers)
def nothing(*arguments, **keywords): return None
def tensor(layers, density): return torch.full((len(layers),), density)
def pruner(network, count, invert=False): return {}["pruner"]
def scores(network, count, invert=False): return {n: p.detach() for n, p in network.named_parameters()}
def named(network, count, invert=False): return None
def optimizer(parameters, settings): return {}["optimizer"]
def schedule(optimizer, settings, epochs): return [1.0, 0.1][epochs]
def later(optimizer, settings, epochs): return LambdaLR(optimizer, lambda epoch: [1.0][epoch])

class Method(Fixed):
    def check(self, settings, layers, source):
        return layers[99]
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """The module `own`, which has the code above."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code/own_code.py").write_text(CODE)
    (tmp_path / "code/own_import.py").write_text("raise RuntimeError('compile me first')\n")
    (tmp_path / "code/own_syntax.py").write_text("def net(:\n")
    monkeypatch.syspath_prepend(tmp_path / "code")
    yield
    for name in ("own_code", "own_import", "own_syntax"):
        sys.modules.pop(name, None)


def named(group, function):
    return [f"{group}._target_=own_code.{function}", f"{group}.name=mine"]


@pytest.mark.parametrize(
    "words, message",
    [
        (named("sparsity", "density"), "sparsity=mine: raises KeyError: 'density' (own_code.py:16)"),
        (named("sparsity", "one"), "sparsity=mine: returns 1 densities, must return one for each of 2 layers"),
        (named("sparsity", "nan"), "sparsity=mine: returns the density nan for 0.weight, must lie in [0, 1]"),
        (named("sparsity", "percents"), "sparsity=mine: returns the density 10 for 0.weight, must lie in [0, 1]"),
        (named("optimizer", "optimizer"), "optimizer=mine: raises KeyError: 'optimizer' (own_code.py:25)"),
        (named("optimizer", "nothing"), "optimizer=mine: own_code.nothing returns NoneType, must return an Optimizer"),
        (named("schedule", "schedule"), "schedule=mine: raises IndexError: list index out of range (own_code.py:26)"),
        (named("schedule", "nothing"), "schedule=mine: own_code.nothing returns NoneType, must return an LRScheduler"),
        (named("method", "Method"), "method=mine: raises IndexError: list index out of range (own_code.py:31)"),
        (
            ["model._target_=own_import.net", "model.name=mine"],
            "raises RuntimeError: compile me first (own_imp",
        ),
        (
            ["model._target_=own_syntax.net", "model.name=mine"],
            "cannot be imported (invalid syntax (own_syntax",
        ),
        (["model._target_=net", "model.name=mine"], "_target_=net: must name an object of a module, such as net.Name"),
    ],
)
def test_code_that_cannot_work_is_refused_when_the_run_is_planned(refusal, own, words, message):
    network = [] if "model" in words[0] else [*named("model", "net"), "trainer.execution=masked"]
    assert message in refusal(*network, *words)


@pytest.mark.parametrize(
    "words, message",
    [
        (named("dataset", "images"), "dataset=mine: raises KeyError: 'images' (own_code.py:13)"),
        (named("dataset", "unopened"), "dataset=mine: raises FileNotFoundError: [Errno 2] No such file"),
        (named("dataset", "tensors"), "own_code.tensors returns Tensor, must return ersparse.data.arrays.Arrays"),
        (named("sparsity", "pruner"), "sparsity=mine: raises KeyError: 'pruner' (own_code.py:22)"),
        (
            named("sparsity", "scores"),
            "sparsity=mine: returns torch.float32 [4, 1, 3, 3] for 0.weight, must be torch.b",
        ),
        (named("sparsity", "named"), "sparsity=mine: returns NoneType, must return masks by layer name"),
    ],
)
def test_code_that_fails_before_the_run_starts_is_refused(launch, tmp_path, own, words, message):
    status, printed = launch(*named("model", "net"), *words, *TINY[1:])
    assert status == 2 and message in printed.splitlines()[-1] and not (tmp_path / "outputs").exists(), printed


def test_densities_may_be_a_tensor(launch, only_run, own):
    status, printed = launch(*named("model", "net"), *named("sparsity", "tensor"), "method=draw")
    assert status == 0, printed
    assert read(only_run())["layers"][0]["density"] == pytest.approx(0.1)


def test_a_network_that_raises_once_the_run_has_started_is_a_failed_run(launch, only_run, own):
    import own_code

    own_code.LATE = True
    status, printed = launch(*named("model", "net"), *TINY[1:])
    line = "model._target_=own_code.net: raises ValueError: no luck with the first weights (own_code.py:9)"
    assert status == 1 and printed.splitlines()[-1] == line
    assert (read(only_run())["state"], read(only_run())["error"]) == ("failed", line)
    own_code.LATE = False
    assert launch(*named("model", "net"), *TINY[1:])[0] == 0 and read(only_run())["state"] == "done"


def test_a_schedule_that_raises_in_the_second_epoch_is_a_failed_run(launch, only_run, own):
    with pytest.raises(IndexError):
        launch(*named("model", "net"), *named("schedule", "later"), "trainer.max_epochs=2", "dataset.batch_size=256")
    assert (read(only_run())["state"], read(only_run())["error"]) == ("failed", "IndexError: list index out of range")
