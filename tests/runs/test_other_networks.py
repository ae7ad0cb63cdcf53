"""A transformer and a network of torchvision: interrupted, resumed bit for bit, reported."""

import numpy as np
import pytest
from conftest import outcome, read

import ersparse
from ersparse.cli import report
from ersparse.runs import train
from ersparse.sparse.mask import masks_of

NETWORKS = {  # without dropout, whose random numbers a resumed run does not repeat
    "vit_tiny": ["model=vit_tiny", "model.width=0.25", "model.patch=8"],
    "mobilenet_v2": ["model=torchvision", "model.args={name: mobilenet_v2, dropout: 0.0}", "model.width=0.25"],
}
METHODS = {
    "fixed": ["trainer.max_epochs=3"],
    "rigl": ["trainer.max_epochs=3", "method.delta_t=2"],
    "imp": ["sparsity=dense", "method.levels=2", "method.epochs_per_level=1", "method.final_epochs=1"],
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
    record_progress = train._record_progress

    def interrupt(record, epochs, epoch):
        if epoch == 2:
            raise KeyboardInterrupt
        record_progress(record, epochs, epoch)

    monkeypatch.setattr(train, "_record_progress", interrupt)
    return lambda: monkeypatch.setattr(train, "_record_progress", record_progress)


@pytest.mark.slow
@pytest.mark.parametrize("network, method", [*(("vit_tiny", method) for method in METHODS), ("mobilenet_v2", "fixed")])
def test_an_interrupted_run_is_resumed_bit_for_bit(launch, few_images, tmp_path, interrupted_once, network, method):
    data = ["dataset=cifar10", f"dataset.root={few_images}", "dataset.batch_size=50", "trainer=cpu"]
    words = [*data, *NETWORKS[network], f"method={method}", *METHODS[method], "optimizer.lr=0.01"]
    assert launch(*words, f"paths.root={tmp_path}/interrupted")[0] != 0
    interrupted_once()
    folders = []
    for root in ("interrupted", "undisturbed"):
        status, printed = launch(*words, f"paths.root={tmp_path}/{root}")
        assert status == 0 and ("resuming after epoch 1" in printed) == (root == "interrupted"), printed
        folders.append(next((tmp_path / root).rglob("run.json")).parent)
    assert outcome(folders[0]) == outcome(folders[1])
    assert all(layer["positions"] > 0 for layer in read(folders[1])["layers"])
    masks = masks_of(ersparse.load(folders[1]))
    assert masks and all(mask.any() for mask in masks.values())
    assert report.main([str(tmp_path / "undisturbed")]) == 0
