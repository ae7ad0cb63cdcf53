"""Pretrained weights: state dicts of other programs, in the forms that these write, and what is refused."""

import copy
import os
import pickle

import numpy as np
import pytest
import torch
from conftest import TINY, read
from safetensors.torch import save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel

import ersparse
from ersparse import models
from ersparse.errors import UserError
from ersparse.storage.run_folder import network_masks
from ersparse.storage.weights_file import fitting, read_weights


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2, 3))


FORMS = {  # what is saved, of a network
    "plain": lambda net: net.state_dict(),
    "checkpoint": lambda net: {"epoch": 3, "state_dict": net.state_dict(), "optimizer": {"state": {}}},
    "DeiT": lambda net: {"model": net.state_dict()},
    "nested twice": lambda net: {"model": {"state_dict": net.state_dict()}},
    "DataParallel": lambda net: nn.DataParallel(net).state_dict(),
    "compiled": lambda net: {f"_orig_mod.{k}": v for k, v in net.state_dict().items()},
    "compiled, then parallel": lambda net: {
        f"module._orig_mod.{key}": value for key, value in net.state_dict().items()
    },
    "average": lambda net: AveragedModel(net).state_dict(),
    "bfloat16": lambda net: copy.deepcopy(net).bfloat16().state_dict(),
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_state_dicts(tmp_path, form):
    expected, file = network().state_dict(), tmp_path / "weights.pth"
    torch.save(FORMS[form](network()), file)
    found, digest = read_weights(file, "model.init_from=x")
    found, left = fitting(found, expected, "model.init_from=x", "own", fresh=False)
    assert list(found) == list(expected) and not left and len(digest) == 64
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name].to(tensor.dtype), tensor, rtol=1e-2, atol=1e-2)


def test_a_module_that_is_called_module_keeps_its_name(tmp_path):
    net = nn.ModuleDict({"module": nn.Linear(2, 2), "head": nn.Linear(2, 2)})
    save_file(net.state_dict(), tmp_path / "a.safetensors")
    assert set(read_weights(tmp_path / "a.safetensors", "x")[0]) == set(net.state_dict())


class Touch:
    def __reduce__(self):
        return os.mkdir, ("CALLED",)


BAD = {  # content, and what the line says
    "code": (lambda path: torch.save({"weight": Touch()}, path), "is damaged or has more than tensors"),
    "whole network": (lambda path: torch.save(network(), path), "is damaged or has more than tensors"),
    "code, by pickle alone": (
        lambda path: path.write_bytes(pickle.dumps(Touch())),
        "is damaged or has more than tensors",
    ),
    "no tensors": (lambda path: torch.save({"epoch": 1}, path), "has no tensors by name"),
    "a list": (lambda path: torch.save([torch.zeros(1)], path), "has no tensors by name"),
    "text": (lambda path: path.write_text("hello"), "is damaged or has more than tensors"),
    "empty": (lambda path: path.touch(), "is damaged or has more than tensors"),
    "nothing": (lambda path: None, "cannot be read (No such file or directory)"),
}


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("kind", BAD)
def test_other_files_are_refused_in_one_line(tmp_path, monkeypatch, kind, suffix):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / f"weights{suffix}"
    BAD[kind][0](path)
    with pytest.raises(UserError) as error:
        read_weights(path, "model.init_from=x")
    said = BAD[kind][1] if suffix == ".pt" or kind == "nothing" else "is damaged or has more than tensors"
    assert str(error.value).startswith(f"model.init_from=x: {said}") and "\n" not in str(error.value)
    assert not (tmp_path / "CALLED").exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_damaged_files_are_refused_in_one_line_or_read(tmp_path, zipped):
    """The unpickler raises ten kinds of errors for changed bytes."""
    path, random = tmp_path / "weights.pt", np.random.default_rng(0)
    torch.save({"weight": torch.ones(3), "bias": torch.ones(2)}, path, _use_new_zipfile_serialization=zipped)
    whole, refused = path.read_bytes(), []
    for _ in range(150):
        damaged = bytearray(whole[: random.integers(1, len(whole) + 1)] if random.random() < 0.2 else whole)
        for place in random.integers(len(damaged), size=4):
            damaged[place] = random.integers(256)
        path.write_bytes(damaged)
        try:
            read_weights(path, "model.init_from=x")
        except UserError as error:
            refused.append(str(error))
    assert len(refused) > 10
    assert all(line.startswith("model.init_from=x: ") and "\n" not in line for line in refused)


def test_counters_of_old_checkpoints_may_be_missing():
    expected = network().state_dict()
    old = {name: tensor for name, tensor in expected.items() if "num_batches" not in name}
    assert fitting(old, expected, "x", "own", fresh=False)[0] == old


def test_dense_weights_in_a_sparse_run_stay_masked(launch, only_run, tmp_path):
    """Another number of classes, too: its classifier is named, and left as it is drawn if that is asked for."""
    torch.manual_seed(3)
    pretrained = models.resnet20(7, channels=1, width=0.25)
    torch.save({"state_dict": pretrained.state_dict()}, tmp_path / "dense.pt")
    words = [*TINY, f"model.init_from={tmp_path}/dense.pt", "sparsity=erk", "optimizer.lr=1e-9", "seed=3"]
    status, printed = launch(*words)
    line = "its classifier.weight is [7, 16], model=resnet20 has [10, 16]; model.init_mismatch=fresh leaves out what"
    assert status == 2 and printed.startswith("model.init_from=") and line in printed and printed.count("\n") == 1
    status, printed = launch(*words, "model.init_mismatch=fresh")
    assert status == 0 and "leaves classifier.weight, classifier.bias as drawn" in printed, printed
    trained = ersparse.load(only_run()).state_dict()
    for name, mask in network_masks(trained).items():
        assert not trained[name][~mask].any()
        if "classifier" not in name:
            torch.testing.assert_close(trained[name], pretrained.state_dict()[name] * mask, rtol=1e-3, atol=1e-5)


def test_a_file_enters_the_hash_by_its_content(launch, tmp_path):
    folders = []
    for name, seed in (("a.pt", 0), ("b.pt", 0), ("c.pt", 1)):
        torch.manual_seed(seed)
        torch.save(models.resnet20(10, channels=1, width=0.25).state_dict(), tmp_path / name)
    (tmp_path / "b.pt").write_bytes((tmp_path / "a.pt").read_bytes())
    for name in ("a.pt", "b.pt", "c.pt"):
        words = [
            "method=draw",
            "model.width=0.25",
            f"model.init_from={tmp_path}/{name}",
            f"paths.root={tmp_path}/{name}s",
        ]
        assert launch(*words)[0] == 0
        folders.append(read(next((tmp_path / f"{name}s").rglob("run.json")).parent)["hash"])
    assert folders[0] == folders[1] != folders[2]


def test_a_file_of_another_network_is_refused_even_if_what_does_not_fit_is_left_out():
    with pytest.raises(UserError, match="has no tensor that fits model=own, such as 0.weight"):
        fitting({"x": torch.zeros(1)}, network().state_dict(), "model.init_from=x", "own", fresh=True)
