"""trainer.execution=sparse beside masked: the same network, checkpoints that either goes on from, what it refuses."""

import signal
import time

import pytest
import torch
from conftest import TINY, outcome, read, rows
from safetensors.torch import load_file

from ersparse.kernels.compile import KernelsUnavailable, library

EXACT = [*TINY, "trainer.max_epochs=3", "trainer.precision=32-true", "sparsity.level=0.8"]
SPARSE = "trainer.execution=sparse"


@pytest.fixture(scope="module", autouse=True)
def compiler():
    try:
        library("float", "float")
    except KernelsUnavailable as reason:
        pytest.skip(str(reason))


def networks(launch, only_run, tmp_path, *commands):
    """Of a run for each command, from nothing."""
    found = []
    for words in commands:
        status, printed = launch(*words, "fresh=true")
        assert status == 0, printed
        found.append((load_file(only_run() / "network.safetensors"), rows(only_run()), read(only_run())))
    return found


def test_it_learns_what_masked_execution_learns(launch, only_run, tmp_path):
    words = [*TINY, "trainer.precision=32-true", "optimizer.lr=0.001"]
    (masked, _, before), (sparse, epochs, after) = networks(launch, only_run, tmp_path, words, [*words, SPARSE])
    assert after["config"]["trainer"]["execution"] == "sparse"
    assert before["mask_sha256"] == after["mask_sha256"] and before["hash"] == after["hash"]
    for name, wanted in masked.items():
        torch.testing.assert_close(sparse[name].double(), wanted.double(), rtol=1e-3, atol=1e-4, msg=name)
    assert all(epoch["test/acc"] for epoch in epochs)


def test_it_trains_in_bfloat16(launch, only_run):
    status, printed = launch(*TINY, SPARSE, "trainer.precision=bf16-mixed")
    assert status == 0, printed


def test_resumed_bit_for_bit(process, tmp_path):
    words = ["model.width=0.25", "trainer.max_epochs=6", "dataset.batch_size=128", SPARSE]
    folders = []
    for name in ("through", "killed"):
        run = process(*words, f"paths.root={tmp_path / name}")
        if name == "killed":
            deadline = time.monotonic() + 120
            while len(list((tmp_path / name).rglob("*.ckpt"))) < 1 and time.monotonic() < deadline:
                time.sleep(0.02)
            run.send_signal(signal.SIGKILL)
            run.communicate()
            run = process(*words, f"paths.root={tmp_path / name}")
        printed, _ = run.communicate(timeout=300)
        assert run.returncode == 0, printed
        (record,) = (tmp_path / name).rglob("run.json")
        folders.append(record.parent)
    assert outcome(folders[0]) == outcome(folders[1])
