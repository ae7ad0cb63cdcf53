"""trainer.execution=sparse beside masked: the same network, checkpoints that either goes on from, what it refuses."""

import errno

import pytest
import torch
from conftest import KILLED, TINY, killed_and_undisturbed, outcome, read, rows
from safetensors.torch import load_file
from torch import nn

from ersparse.kernels.compile import KernelsUnavailable, library
from ersparse.lightning.callbacks import Checkpoints

SPARSE = "trainer.execution=sparse"
EXACT = [*TINY, "trainer.max_epochs=2", "trainer.precision=32-true", "optimizer.lr=0.001"]


@pytest.fixture(scope="module", autouse=True)
def compiler():
    try:
        library("float", "float")
    except KernelsUnavailable as reason:
        pytest.skip(str(reason))


def finished(launch, only_run, *words):
    """The folder of a run, from nothing."""
    status, printed = launch(*EXACT, *words, "fresh=true")
    assert status == 0, printed
    return only_run()


def assert_close(folder, network):
    """To what adding in another order changes in some steps."""
    found = load_file(folder / "network.safetensors")
    assert found.keys() == network.keys() and any(name.endswith("_mask") for name in found)
    for name, wanted in network.items():
        torch.testing.assert_close(found[name], wanted, rtol=1e-3, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}")


def test_it_learns_what_masked_execution_learns(launch, only_run):
    masked = finished(launch, only_run)
    network, before = load_file(masked / "network.safetensors"), read(masked)
    sparse = finished(launch, only_run, SPARSE)
    assert_close(sparse, network)
    after = read(sparse)
    assert (before["hash"], before["mask_sha256"]) == (after["hash"], after["mask_sha256"])
    assert [record["config"]["trainer"]["execution"] for record in (before, after)] == ["masked", "sparse"]


@pytest.mark.parametrize("first, second", [("masked", "sparse"), ("sparse", "masked"), ("sparse", "sparse")])
def test_either_goes_on_from_a_checkpoint(launch, only_run, monkeypatch, first, second):
    """The disk is full after the first epoch's checkpoint. The same execution ends with the same bits."""
    through = finished(launch, only_run, f"trainer.execution={second}")
    network, wanted = load_file(through / "network.safetensors"), outcome(through)
    save = Checkpoints.on_train_epoch_end

    def save_and_stop(self, trainer, module):
        save(self, trainer, module)
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patched:
        patched.setattr(Checkpoints, "on_train_epoch_end", save_and_stop)
        assert launch(*EXACT, f"trainer.execution={first}", "fresh=true")[0] == 1
    status, printed = launch(*EXACT, f"trainer.execution={second}")
    assert status == 0 and "resuming after epoch 1" in printed, printed
    assert_close(only_run(), network)
    assert first != second or outcome(only_run()) == wanted


def test_bfloat16_changes_little(launch, only_run):
    exact, near = (
        [float(epoch["train/loss"]) for epoch in rows(finished(launch, only_run, SPARSE, f"trainer.precision={name}"))]
        for name in ("32-true", "bf16-mixed")
    )
    assert near != exact and near == pytest.approx(exact, rel=0.02)


@pytest.mark.slow
def test_killed_and_resumed_bit_for_bit(process, tmp_path):
    (_, killed), (_, undisturbed) = killed_and_undisturbed(process, tmp_path, [*KILLED, SPARSE], "epoch00003")
    assert outcome(killed) == outcome(undisturbed)


def test_without_a_compiler_it_is_masked(launch, only_run, monkeypatch):
    library.cache_clear()
    monkeypatch.setenv("CXX", "no-such-compiler")
    status, printed = launch(*TINY, SPARSE)
    assert status == 0 and read(only_run())["config"]["trainer"]["execution"] == "masked"
    said = "trainer.execution=sparse: masked instead, there is no C++ compiler (no-such-compiler)"
    assert printed.count(said) == 1


def dilated(num_classes, channels=3, width=1.0):
    network = nn.Sequential(
        nn.Conv2d(channels, 4, 3, dilation=2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, num_classes)
    )
    network.shrinks_by = 1
    return network


@pytest.mark.parametrize(
    "words, message",
    [
        (["trainer=gpu"], "trainer.execution=sparse: needs trainer.accelerator=cpu; must be auto or masked on a GPU"),
        (["method=imp"], "trainer.execution=sparse: must be auto or masked with method=imp"),
        (["model.sync_batchnorm=true"], "trainer.execution=sparse: must be auto or masked with model.sync_batchnorm"),
        (
            [f"model._target_={__name__}.dilated", "model.name=dilated"],
            "trainer.execution=sparse: 0 (Conv2d with padding=(0, 0), zeros, or dilation) is not covered; must be auto",
        ),
    ],
)
def test_what_it_refuses(launch, tmp_path, monkeypatch, words, message):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    status, printed = launch(SPARSE, *words)
    assert status == 2 and message in printed and printed.count("\n") == 1 and not list(tmp_path.iterdir())
