"""Resolution of `auto` settings, and the memory format."""

import json
import os
import subprocess
import sys

import pytest
import torch
from conftest import ROOT

from ersparse import models
from ersparse.config.trainer_settings import TrainerSettings
from ersparse.distributed.rendezvous import VARIABLE
from ersparse.errors import UserError
from ersparse.lightning import auto_settings
from ersparse.runs import train

AUTO = TrainerSettings(
    max_epochs=1, accelerator="auto", devices=1, num_nodes=1, precision="auto", execution="auto", detect_anomaly=False
)
NARROW = """
import torch
from ersparse import models
from ersparse.lightning.classifier import Classifier
from ersparse.config.optimizer_settings import OptimizerSettings
settings = OptimizerSettings(
    name="sgd", lr=0.1, momentum=0.9, weight_decay=0.0, nesterov=False, milestones=[0.5], gamma=0.1
)
for channels in (1, 3):
    module = Classifier(models.resnet20(10, channels=channels, width=0.25), 10, settings, 1, ["test"])
    for count in [256, 157, 64, 29, 360, 128] * 4:
        module(torch.randn(count, 16, 16, channels).permute(0, 3, 1, 2)).sum().backward()
"""


def test_narrow_strided_shortcuts_use_contiguous_format():
    for name in [name for name in models.__all__ if not name.endswith("_network")]:
        assert auto_settings.memory_format(getattr(models, name)(10)) == torch.channels_last
    assert auto_settings.memory_format(models.resnet20(10, width=0.25)) == torch.contiguous_format


@pytest.mark.slow
def test_a_narrow_network_trains_without_memory_corruption():
    """With glibc's heap checks, this process crashed nine times out of ten in channels-last format on AVX-512."""
    environment = os.environ | {"MALLOC_CHECK_": "3", "MALLOC_PERTURB_": "165"}
    subprocess.run([sys.executable, "-c", NARROW], check=True, env=environment, cwd=ROOT, timeout=300)


def test_gpus_are_numbered_by_their_bus_before_cuda_is_asked(monkeypatch):
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "FASTEST_FIRST")
    seen = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: seen.append(os.environ["CUDA_DEVICE_ORDER"]) or 0)
    auto_settings.resolve(AUTO)
    assert set(seen) == {"PCI_BUS_ID"}


@pytest.mark.parametrize("native, expected", [(True, "bf16-mixed"), (False, "32-true")])
def test_auto_precision_follows_the_processor(monkeypatch, native, expected):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(auto_settings, "_cpu_has_bfloat16", lambda: native)
    assert auto_settings.resolve(AUTO) == {"accelerator": "cpu", "precision": expected, "execution": "masked"}
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0) if native else (7, 0))
    assert auto_settings.resolve(AUTO) == {"accelerator": "gpu", "precision": expected, "execution": "masked"}


@pytest.mark.parametrize(
    "words, precision",
    [
        ({"execution": "sparse"}, "32-true"),
        ({"execution": "auto"}, "32-true"),
        ({"execution": "masked"}, "bf16-mixed"),
        ({"execution": "sparse", "precision": "bf16-mixed"}, "bf16-mixed"),
    ],
)
def test_sparse_execution_of_very_sparse_networks_stores_float32(monkeypatch, words, precision):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(auto_settings, "_cpu_has_bfloat16", lambda: True)
    monkeypatch.setattr(auto_settings, "_sparse_or_masked", lambda requested, storage: "sparse")
    settings = AUTO.model_copy(update=words)
    assert auto_settings.resolve(settings, "sparse", 1 - 0.01)["precision"] == precision  # 1 - 0.01 is 0.99 exactly
    assert auto_settings.resolve(settings, "sparse", 0.98)["precision"] == "bf16-mixed"


def test_compiled_execution_needs_a_compiler(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setenv("CXX", "/nowhere/c++")
    with pytest.raises(UserError, match="trainer.execution=compiled: needs a C"):
        auto_settings.resolve(AUTO.model_copy(update={"execution": "compiled"}))


def test_missing_devices_are_errors(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(UserError, match="trainer.accelerator=gpu: there is no GPU here"):
        auto_settings.resolve(AUTO.model_copy(update={"accelerator": "gpu"}))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    with pytest.raises(UserError, match=r"trainer.devices=3: must lie in \[1, 2\], this machine has 2 GPUs"):
        auto_settings.resolve(AUTO.model_copy(update={"devices": 3}))


def test_apple_gpus_train_in_single_precision_and_masked(monkeypatch):
    settings = AUTO.model_copy(update={"accelerator": "mps"})
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(UserError, match="trainer.accelerator=mps: there is no Apple GPU here; must be auto or cpu"):
        auto_settings.resolve(settings)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert auto_settings.resolve(settings, "sparse") == {
        "accelerator": "mps", "precision": "32-true", "execution": "masked",
    }  # fmt: skip
    with pytest.raises(UserError, match="trainer.devices=2: must be 1 with trainer.accelerator=mps"):
        auto_settings.resolve(settings.model_copy(update={"devices": 2}))


def test_a_task_to_which_a_cluster_binds_one_gpu_trains_on_it(monkeypatch, tmp_path):
    """Otherwise rank 1 of a node would look for a second GPU, which it does not see."""
    settings = AUTO.model_copy(update={"accelerator": "gpu", "devices": 4, "precision": "32-true"})
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UserError, match="trainer.devices=4: must lie in"):
        auto_settings.resolve(settings)
    monkeypatch.setenv(VARIABLE, json.dumps({"folder": str(tmp_path), "rank": 1, "size": 4, "local": 1, "node": 0}))
    assert auto_settings.resolve(settings)["accelerator"] == "gpu"
    assert train._devices_of_ranks(settings) == [torch.device("cuda", 0)] * 4
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert train._devices_of_ranks(settings) is None


def test_tf32_is_allowed_or_forbidden_for_products_and_convolutions():
    for allowed, precision in ((False, "highest"), (True, "high")):
        train.allow_tf32(allowed)
        assert torch.get_float32_matmul_precision() == precision
        assert torch.backends.cudnn.allow_tf32 == allowed
