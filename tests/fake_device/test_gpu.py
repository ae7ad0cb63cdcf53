"""On a real GPU: runs of every method reach their end, and PyTorch finds no usual step that waits for the device."""

import pytest
import torch
from conftest import read
from fake_device.test_runs import RUNS
from fake_device.training import run
from pytorch_lightning import Callback

pytestmark = pytest.mark.gpu


class RefuseWaits(Callback):
    """Makes PyTorch raise an error at every synchronisation in training steps after the first, without updates."""

    def on_train_batch_start(self, trainer, module, batch, index):
        usual = trainer.global_step > 0 and trainer.global_step % 2 == 0
        torch.cuda.set_sync_debug_mode("error" if usual else "default")

    def on_train_batch_end(self, trainer, module, outputs, batch, index):
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("name", RUNS)
def test_runs_on_a_gpu_end_with_the_masks_drawn_on_the_cpu(name, tmp_path):
    expected = read(run(tmp_path / "cpu", RUNS[name], "cpu", Callback()))
    found = read(run(tmp_path / "gpu", RUNS[name], "gpu", RefuseWaits()))
    assert found["state"] == "done" and found["source_mask_sha256"] == expected["source_mask_sha256"]
    for metric in ("train/loss", "test/loss"):
        assert found["metrics"][metric] == pytest.approx(expected["metrics"][metric], rel=0.05)
