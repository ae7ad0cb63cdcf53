"""A transformer, networks of torchvision and timm, and dropout: interrupted, resumed bit for bit, reported."""

import random

import numpy as np
import own_networks
import pytest
import torch
from conftest import ROOT, killed_and_undisturbed, outcome, read

import ersparse
from ersparse.cli import export, report
from ersparse.lightning.callbacks import EpochSeed
from ersparse.lightning.callbacks.epoch_seed import random_state_kept
from ersparse.runs import training_callbacks
from ersparse.sparse.mask import masks_of

NETWORKS = {
    "vit_tiny": ["model=vit_tiny", "model.width=0.25", "model.patch=8"],
    "mobilenet_v2": ["model=torchvision", "model.args.name=mobilenet_v2", "model.width=0.25"],
    "vit": [
        "model._target_=torchvision.models.VisionTransformer",
        "model.name=vit",
        "model.args={patch_size: 8, num_layers: 2, num_heads: 2, hidden_dim: 32, mlp_dim: 64, dropout: 0.2, "
        "attention_dropout: 0.1}",
    ],
    "drop_path": [
        "model=timm",
        "model.args={model_name: deit_tiny_patch16_224, img_size: 32, patch_size: 8, embed_dim: 32, depth: 3, "
        "num_heads: 2, drop_path_rate: 0.5, drop_rate: 0.1}",
    ],
}
METHODS = {
    "fixed": ["trainer.max_epochs=3"],
    "rigl": ["trainer.max_epochs=3", "method.delta_t=2"],
    "imp": [
        "sparsity=dense",
        "method.final_sparsity=0.3",
        "method.levels=2",
        "method.epochs_per_level=1",
        "method.final_epochs=1",
    ],
    "edge_popup": ["sparsity.level=0.5", "method.levels=2", "method.epochs_per_level=1"],
}


@pytest.fixture
def few_images(cifar_root, tmp_path):
    """The first images of CIFAR-10, as a data set of their own."""
    whole = np.load(cifar_root / "cifar10.npz")
    np.savez(tmp_path / "cifar10.npz", **{key: whole[key][:100] for key in whole})
    return tmp_path


@pytest.fixture
def interrupted_once(monkeypatch):
    """Runs are interrupted at the end of their second epoch, before its checkpoint, until the function is called."""
    record_progress = training_callbacks._record_progress

    def interrupt(record, epochs, epoch):
        if epoch == 2:
            raise KeyboardInterrupt
        record_progress(record, epochs, epoch)

    monkeypatch.setattr(training_callbacks, "_record_progress", interrupt)
    return lambda: monkeypatch.setattr(training_callbacks, "_record_progress", record_progress)


def interrupted_and_undisturbed(launch, tmp_path, undisturbed, words):
    """The folders of a run that is interrupted and resumed, and of one that is not."""
    assert launch(*words, f"paths.root={tmp_path}/interrupted")[0] != 0
    undisturbed()
    folders = []
    for root in ("interrupted", "undisturbed"):
        status, printed = launch(*words, f"paths.root={tmp_path}/{root}")
        assert status == 0 and ("resuming after epoch 1" in printed) == (root == "interrupted"), printed
        folders.append(next((tmp_path / root).rglob("run.json")).parent)
    return folders


def exported_as_onnx(folder):
    """Export a run, and compute its logits for one and for three images by ONNX Runtime, where that is installed."""
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    assert export.main([str(folder), "--format", "onnx"]) == 0
    session, network = runtime.InferenceSession(folder / "network.onnx"), ersparse.load(folder)
    for images in (torch.randn(1, 3, 32, 32), torch.randn(3, 3, 32, 32)):
        (found,) = session.run(None, {"images": images.numpy()})
        torch.testing.assert_close(torch.from_numpy(found), network(images), rtol=1e-3, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    "network, method",
    [
        *(("vit_tiny", method) for method in METHODS),
        *(("mobilenet_v2", method) for method in METHODS),
        *((network, "fixed") for network in ("vit", "drop_path")),
    ],
)
def test_an_interrupted_run_is_resumed_bit_for_bit(launch, few_images, tmp_path, interrupted_once, network, method):
    if network == "drop_path":
        pytest.importorskip("timm")
    data = ["dataset=cifar10", f"dataset.root={few_images}", "dataset.batch_size=50", "trainer=cpu"]
    words = [*data, *NETWORKS[network], f"method={method}", *METHODS[method], "optimizer.lr=0.01"]
    resumed, whole = interrupted_and_undisturbed(launch, tmp_path, interrupted_once, words)
    assert outcome(resumed) == outcome(whole)
    assert all(layer["positions"] > 0 for layer in read(whole)["layers"])
    masks = masks_of(ersparse.load(whole))
    assert masks and all(mask.any() for mask in masks.values())
    assert report.main([str(tmp_path / "undisturbed")]) == 0
    if method == "fixed" and network in ("vit_tiny", "mobilenet_v2"):
        exported_as_onnx(whole)


STOCHASTIC = [
    "model._target_=own_networks.Stochastic", "model.name=stochastic", "sparsity=erk", "sparsity.flow=none",
    "trainer.max_epochs=3", "dataset.batch_size=256", "optimizer.lr=0.02",
]  # fmt: skip


@pytest.fixture
def importable(monkeypatch):
    monkeypatch.syspath_prepend(own_networks.__file__.rpartition("/")[0])


def states():
    return torch.get_rng_state().tolist(), repr(np.random.get_state()), random.getstate()


def test_dropout_and_stochastic_depth_are_resumed_bit_for_bit(launch, tmp_path, interrupted_once, importable):
    """Of PyTorch's layers, and layers that Python's or NumPy's generator leaves out."""
    before = torch.get_rng_state()
    resumed, whole = interrupted_and_undisturbed(launch, tmp_path, interrupted_once, STOCHASTIC)
    assert outcome(resumed) == outcome(whole) and torch.get_rng_state().equal(before)


@pytest.mark.slow
def test_dropout_is_resumed_after_sigkill(process, tmp_path, importable, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{own_networks.__file__.rpartition('/')[0]}")
    words = [*STOCHASTIC, "trainer.max_epochs=5"]
    (_, killed), (_, whole) = killed_and_undisturbed(process, tmp_path, words, "epoch00002")
    assert outcome(killed) == outcome(whole)


def test_random_numbers_of_an_epoch_follow_from_seed_epoch_and_rank(monkeypatch):
    """Whatever was drawn before; the ranks of a run, and runs of another data seed, drop other units."""

    def drawn(seed, epoch, rank):
        monkeypatch.setattr(trainer, "current_epoch", epoch, raising=False)
        EpochSeed(seed, rank).on_train_epoch_start(trainer, None)
        return float(torch.rand(1)), float(np.random.rand()), random.random()

    trainer, before = type("Trainer", (), {})(), states()
    with random_state_kept():
        first = drawn(0, 0, 0)
        others = [drawn(1, 0, 0), drawn(0, 1, 0), drawn(0, 0, 1)]
        assert drawn(0, 0, 0) == first
    assert states() == before
    for values in zip(first, *others, strict=True):
        assert len(set(values)) == 4
