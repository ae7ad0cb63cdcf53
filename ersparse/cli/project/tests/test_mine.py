"""The density, the network and the data set, alone and in a run."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mine import powerlaw, small_net, stripes

import ersparse

CONF = Path(__file__).resolve().parent.parent / "conf"


def test_the_density_meets_the_budget() -> None:
    network = small_net(num_classes=2)
    _, record = ersparse.sparsify(network, density=powerlaw, level=0.8, alpha=0.5)
    assert record["sparsity"]["expected"] == pytest.approx(0.8)
    assert record["sparsity"]["realised"] == pytest.approx(0.8, abs=0.05)


def test_the_network_returns_a_logit_for_each_class() -> None:
    assert small_net(num_classes=3)(torch.zeros(2, 1, 16, 16)).shape == (2, 3)


def test_the_data_set_is_valid_and_balanced() -> None:
    images = stripes(Path(), download=False).check("stripes", num_classes=2, channels=1)
    assert images.y_train.float().mean() == images.y_test.float().mean() == 0.5


def test_the_preset_trains_and_keeps_its_sparsity(tmp_path: Path) -> None:
    own = ["--config-dir", str(CONF), f"paths.root={tmp_path}", f"paths.cache={tmp_path}/cache"]
    subprocess.run([sys.executable, "-m", "ersparse", "run", *own, "experiment=first"], check=True, cwd=tmp_path)
    (record,) = (json.loads(path.read_text("utf-8")) for path in tmp_path.rglob("run.json"))
    assert record["state"] == "done" and record["metrics"]["test/acc"] > 0.9
    assert sum(layer["nonzero"] for layer in record["layers"]) == pytest.approx(0.2 * 4912, rel=0.2)
