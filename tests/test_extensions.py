"""Every kind of extension is one Python object, one YAML file in a folder of the user's own, and nothing else."""

import json
import subprocess
import sys

import pytest
import torch
from conftest import ROOT, TINY, read

from ersparse import cli

CODE = """
import csv
import numpy as np
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from ersparse.data.digits import load
from ersparse.lightning.schedules import milestone_epochs
from ersparse.methods.fixed import Fixed
from ersparse.models import resnet20
from ersparse.runs.loggers.base import RunLogger
from ersparse.sparse import flow_repair
from ersparse.sparse.density import fill
from ersparse.sparse.scores import largest, magnitude

def powerlaw(layers, density, alpha=1.0):
    raw = np.array([float(layer.size) ** -alpha for layer in layers])
    return fill(raw, layers, density, np.zeros(len(layers)))

def smallest(network, count, power=1.0, invert=False):
    return largest({name: -score ** power for name, score in magnitude(network).items()}, count)

def add_twice(mask, layer, density, random):
    return flow_repair.add(*(flow_repair.add(mask, layer, density, random)[0], layer, density, random))

def lion_like(parameters, settings, shrink=1.0):
    return torch.optim.SGD(parameters, settings.lr * shrink)

def halving(optimizer, settings, epochs, every=1):
    return LambdaLR(optimizer, lambda epoch: 0.5 ** (epoch // every))

def half(root, download, keep=1.0):
    images = load(root, download)
    count = int(len(images.y_train) * keep)
    return type(images)(images.x_train[:count], images.y_train[:count], images.x_test, images.y_test)

def net(num_classes, channels=3, width=1.0, hidden=4, notes=()):
    return nn.Sequential(nn.Conv2d(channels, hidden, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(hidden, num_classes))

class Noted(Fixed):
    note: str
    def callbacks(self, run):
        (run.folder / "note.txt").write_text(self.note)
        return super().callbacks(run)

class LinesLogger(RunLogger):
    file: str = "lines.txt"
    def create(self, plan, record):
        self.__dict__["path"] = plan.folder / self.file
        return False
    def summarise(self, logger, record):
        self.__dict__["path"].write_text(f"{record.content['metrics']['test/acc']}")
"""
OPTIONS = {
    "sparsity/powerlaw": "defaults: [_common]\n_target_: mine.powerlaw\nname: powerlaw\nalpha: 0.5",
    "sparsity/smallest": "defaults: [_common]\n_target_: mine.smallest\nname: smallest\npower: 2.0",
    "optimizer/lion_like": "defaults: [_common, _self_]\n_target_: mine.lion_like\nname: lion_like\nshrink: 0.25",
    "schedule/halving": "_target_: mine.halving\nname: halving\nevery: 2",
    "dataset/half": "defaults: [digits, _self_]\n_target_: mine.half\nname: half\nkeep: 0.25",
    "model/net": "defaults: [_common]\n_target_: mine.net\nname: net\nhidden: 5\nnotes: [1, {a: 2}]",
    "method/noted": "_target_: mine.Noted\nname: noted\nnote: hello",
    "logger/lines": "_target_: mine.LinesLogger\nname: lines\nfile: lines.txt",
}


@pytest.fixture
def mine(tmp_path):
    """A folder of a user's own, with options and the module that they name."""
    folder = tmp_path / "mine"
    for name, text in OPTIONS.items():
        (folder / f"{name}.yaml").parent.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.yaml").write_text(f"# My {name}.\n{text}\n")
    (folder / "mine.py").write_text(CODE)
    yield folder
    sys.modules.pop("mine", None)
    sys.path[:] = [path for path in sys.path if path != str(folder)]


def test_a_density_with_a_key_of_its_own(launch, only_run, mine):
    words = ["--config-dir", str(mine), "sparsity=powerlaw", "method=draw"]
    status, printed = launch(*words)
    assert status == 0, printed
    first, record = only_run(), read(only_run())
    assert record["config"]["sparsity"]["alpha"] == 0.5 and record["sparsity"]["expected"] == pytest.approx(0.9)
    assert launch(*words, "sparsity.alpha=1.0")[0] == 0
    assert len({path.parent for path in first.parents[1].glob("*/s0")}) == 2  # the key enters the hash


def test_an_unknown_key_of_an_option_is_refused_with_a_hint(launch, mine):
    status, printed = launch("--config-dir", str(mine), "sparsity=powerlaw", "method=draw", "sparsity.alhpa=2")
    assert status == 2 and "did you mean sparsity.alpha?" in printed and printed.count("\n") == 1
    status, printed = launch("--config-dir", str(mine), "sparsity=erk", "method=draw", "+sparsity.alpha=2")
    assert status == 2 and printed.startswith("sparsity.alpha=2: no such key") and printed.count("\n") == 1


def test_a_pruner_score(launch, only_run, mine):
    status, printed = launch(
        "--config-dir", str(mine), "sparsity=smallest", "method=draw", "sparsity.allow_collapse=true"
    )
    assert status == 0, printed
    assert read(only_run())["config"]["sparsity"]["power"] == 2.0


def test_a_flow_repair_by_import_path(launch, only_run, mine):
    status, printed = launch("--config-dir", str(mine), "method=draw", "sparsity.flow=mine.add_twice")
    assert status == 0, printed
    assert sum(layer["edges_added"]["in"] for layer in read(only_run())["layers"]) >= 0
    assert read(only_run())["config"]["sparsity"]["flow"] == "mine.add_twice"
    status, printed = launch("method=draw", "sparsity.flow=adds")
    assert status == 2 and printed.startswith("sparsity.flow=adds: must be one of none, add, move, resample, released")


def test_an_optimizer_a_schedule_a_method_and_a_logger_in_one_run(launch, only_run, mine):
    status, printed = launch(
        "--config-dir", str(mine), *TINY, "optimizer=lion_like", "schedule=halving", "method=noted", "logger=lines"
    )
    assert status == 0, printed
    record = read(only_run())
    assert (only_run() / "note.txt").read_text() == "hello"
    assert float((only_run() / "lines.txt").read_text()) == record["metrics"]["test/acc"]
    assert record["config"]["optimizer"]["shrink"] == 0.25 and record["config"]["schedule"]["every"] == 2
    (checkpoint,) = (only_run() / "checkpoints").glob("*.ckpt")
    state = torch.load(checkpoint, weights_only=True)
    assert state["optimizer_states"][0]["param_groups"][0]["initial_lr"] == pytest.approx(0.1 * 0.25)


def test_a_model_and_a_data_set_with_keys_of_their_own(launch, only_run, mine):
    words = ["--config-dir", str(mine), *(word for word in TINY if not word.startswith("model."))]
    status, printed = launch(*words, "model=net", "dataset=half", "sparsity.level=0.5")
    assert status == 0, printed
    record = read(only_run())
    assert record["layers"][0]["shape"][0] == 5 and record["config"]["dataset"]["keep"] == 0.25
    from ersparse import load, load_images

    assert load(only_run(), trust=["mine"])[0].out_channels == 5
    assert len(load_images(only_run(), trust=["mine"]).y_train) == int(1437 * 0.25)


@pytest.mark.slow
def test_a_sweep_composes_from_the_same_folder(mine, tmp_path):
    words = ["-m", "sparsity=powerlaw,erk", "method=draw", f"paths.root={tmp_path}/out", "hydra.launcher.slots=1"]
    command = [sys.executable, str(ROOT / "launch.py"), "--config-dir", str(mine), *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    names = {
        json.loads(path.read_text())["config"]["sparsity"]["name"] for path in tmp_path.glob("out/*/*/s0/run.json")
    }
    assert names == {"powerlaw", "erk"}


def test_help_lists_the_options_and_their_keys(mine):
    command = [sys.executable, str(ROOT / "launch.py"), "--config-dir", str(mine), "--help"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "My sparsity/powerlaw. [alpha (0.5)]" in printed and "My optimizer/lion_like." in printed


@pytest.mark.parametrize("alias, name", [("magnitude", "imp"), ("imp_iterative", "imp_multishot"),
                                         ("synflow_iterative", "synflow_multishot")])  # fmt: skip
def test_an_alias_has_the_identity_of_the_older_name(launch, alias, name):
    printed = [launch(f"sparsity={option}", "method=draw", "dry_run=true")[1] for option in (alias, name)]
    assert printed[0] == printed[1] and name in printed[0]


def test_densities_of_an_option_of_the_users_own(mine, tmp_path, capsys, monkeypatch):
    words = ["ersparse", "density", "--config-dir", str(mine), "sparsity=powerlaw,erk", f"out={tmp_path}/d.png"]
    monkeypatch.setattr(sys, "argv", words)
    assert cli.main() == 0
    assert "powerlaw" in capsys.readouterr().out


def test_densities_of_a_pruner_are_not_shared_between_values_of_a_models_own_key(launch, mine, tmp_path):
    words = ["--config-dir", str(mine), "model=net", "sparsity=magnitude", "sparsity.level=0.5", "method=draw"]
    for hidden in (4, 6):
        status, printed = launch(*words, f"model.hidden={hidden}")
        assert status == 0, printed
    assert len(list((tmp_path / "cache" / "densities").glob("*.json"))) == 2
