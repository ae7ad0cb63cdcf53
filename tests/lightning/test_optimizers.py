"""Optimizers: Lion against its formula, groups of parameters, classes named by `_target_`, and wrong arguments."""

import numpy as np
import pytest
import torch
from conftest import TINY, read
from fitting import SGD, optimizer
from torch import nn

from ersparse.config.command_line import overrides
from ersparse.config.groups import build
from ersparse.config.optimizer_settings import OptimizerSettings
from ersparse.config.schema import Settings
from ersparse.lightning.classifier import Classifier
from ersparse.lightning.lion import Lion
from ersparse.lightning.optimizers import is_elementwise, make_optimizer


def test_lion_equals_its_formula():
    """Twenty steps of random gradients, and one parameter that has none in every other step."""
    random = np.random.default_rng(0)
    values, momenta = [random.normal(size=5), random.normal(size=(2, 3))], [np.zeros(5), np.zeros((2, 3))]
    parameters = [nn.Parameter(torch.tensor(value)) for value in values]
    lion = Lion(parameters, lr=0.01, betas=(0.8, 0.95), weight_decay=0.1)
    for step in range(20):
        for index, parameter in enumerate(parameters):
            parameter.grad = None
            if index and step % 2:
                continue
            gradient = random.normal(size=values[index].shape)
            parameter.grad = torch.tensor(gradient)
            direction = np.sign(0.8 * momenta[index] + 0.2 * gradient)
            values[index] = values[index] - 0.01 * (direction + 0.1 * values[index])
            momenta[index] = 0.95 * momenta[index] + 0.05 * gradient
        lion.step()
    for parameter, value in zip(parameters, values, strict=True):
        np.testing.assert_allclose(parameter.detach().numpy(), value, rtol=1e-12)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)
        self.body, self.fc = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2)), nn.Linear(2, 2)

    def forward(self, x):
        return self.fc(self.body(self.norm(self.conv(x)).mean((2, 3))))


def test_groups_have_the_keys_that_patterns_give_them():
    settings = optimizer(
        "adamw",
        weight_decay=0.5,
        no_decay=["norm", "bias"],
        layers={"body.*": {"lr": 0.02}, "*.0.weight": {"weight_decay": 0.1}},
    )
    network = Net()
    made = Classifier(network, 2, settings, 1, ["test"]).configure_optimizers()["optimizer"]
    name_of = {parameter: name for name, parameter in network.named_parameters()}
    found = {
        name_of[parameter]: (group["lr"], group["weight_decay"])
        for group in made.param_groups
        for parameter in group["params"]
    }
    assert found == {
        "conv.weight": (0.01, 0.5), "conv.bias": (0.01, 0), "norm.weight": (0.01, 0), "norm.bias": (0.01, 0),
        "body.0.weight": (0.02, 0.1), "body.0.bias": (0.02, 0), "body.1.weight": (0.02, 0), "body.1.bias": (0.02, 0),
        "fc.weight": (0.01, 0.5), "fc.bias": (0.01, 0),
    }  # fmt: skip


def test_without_keys_of_groups_there_is_one_group():
    (group,) = Classifier(Net(), 2, SGD, 1, ["test"]).configure_optimizers()["optimizer"].param_groups
    assert [p.shape for p in group["params"]] == [p.shape for p in Net().parameters()]


@pytest.mark.parametrize(
    "target, args, elementwise",
    [
        ("torch.optim.RMSprop", {"alpha": 0.9}, True),
        ("torch.optim.NAdam", {"betas": [0.8, 0.9]}, True),
        ("torch.optim.Adafactor", {}, False),
        ("ersparse.lightning.lion.Lion", {}, True),
        (f"{__name__}.Halved", {}, False),
    ],
)
def test_a_class_gets_the_keys_that_it_takes(target, args, elementwise):
    settings = optimizer("own", _target_=target, momentum=0.7, weight_decay=0.01, args=args)
    made = make_optimizer([nn.Parameter(torch.zeros(2, 2))], settings)
    (group,) = made.param_groups
    assert type(made).__name__ == target.rpartition(".")[2] and is_elementwise(made) == elementwise
    assert group["lr"] == 0.01 and group["weight_decay"] == 0.01 and group.get("momentum", 0.7) == 0.7
    assert all(group[key] == value for key, value in args.items())


class Halved(torch.optim.SGD):
    """Of the user's own: it might compute anything."""


def test_an_optimizer_of_pytorch_with_groups_in_a_run(launch, only_run):
    words = [
        "optimizer._target_=torch.optim.RAdam", "optimizer.name=radam", "optimizer.lr=0.01",
        "optimizer.args={betas:[0.8,0.9]}", "optimizer.layers={classifier.*:{lr:0.02},bn1.*:{weight_decay:0}}",
    ]  # fmt: skip
    status, printed = launch(*TINY, *words)
    assert status == 0, printed
    (checkpoint,) = (only_run() / "checkpoints").glob("*.ckpt")
    groups = torch.load(checkpoint, weights_only=True)["optimizer_states"][0]["param_groups"]
    assert sorted(group["initial_lr"] for group in groups) == [0.01, 0.01, 0.02]
    assert {tuple(group["betas"]) for group in groups} == {(0.8, 0.9)}
    rebuilt = overrides(build(Settings, read(only_run())["config"]))
    assert set(words[:2]) < set(rebuilt) and words[4] in rebuilt and not any("optimizer=" in word for word in rebuilt)


@pytest.mark.parametrize(
    "words, message",
    [
        (["optimizer.args={beta:1}"], "optimizer.args={'beta': 1}: SGD.__init__() got an unexpected keyword"),
        (["optimizer=adam", "optimizer.args={betas:[0.9,1.5]}"], "optimizer.args={'betas': [0.9, 1.5]}: Invalid beta"),
        (["optimizer=lion", "optimizer.args={betas:[0.9,1.5]}"], "optimizer.args={'betas': [0.9, 1.5]}: betas="),
        (["optimizer.no_decay=[norms]"], "optimizer.no_decay=['norms']: norms matches no parameter; must be norm, "),
        (["optimizer.layers={head.*:{lr:1}}"], "optimizer.layers={'head.*': {'lr': 1}}: head.* matches no parameter"),
        (
            ["optimizer.layers={classifier.*:{rate:1}}"],
            "optimizer.layers.classifier.*.rate=1: no such key; must be one of lr",
        ),
        (["optimizer.layers={classifier.*:{lr:0}}"], "optimizer.layers.classifier.*.lr=0: must lie in (0, inf)"),
        (["optimizer._target_=torch.optim.RAdam"], "optimizer.name=sgd: must be another name with optimizer._target_="),
        (
            ["optimizer._target_=torch.optim.Muon", "optimizer.name=muon"],
            "optimizer=muon: Muon only supports 2D parameters",
        ),
        (
            ["optimizer._target_=torch.optim.Adafactor", "optimizer.name=adafactor", "trainer.execution=sparse"],
            "trainer.execution=sparse: must be auto, masked or compiled with optimizer=adafactor",
        ),
    ],
)
def test_wrong_optimizers_are_refused(refusal, words, message):
    line = refusal(*words)
    assert line.startswith(message) and "\n" not in line


def test_settings_without_the_newer_keys_are_valid():
    """As in run.json of older versions."""
    older = {
        key: SGD.model_dump()[key] for key in ("lr", "momentum", "weight_decay", "nesterov", "milestones", "gamma")
    }
    assert OptimizerSettings.model_validate({"name": "sgd", **older}) == SGD
