"""Every option of every group composes and runs, as far as this machine can; every key is known to the settings."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import TINY

from ersparse.keys import CONF, options_of

GROUPS = [path.name for path in CONF.iterdir() if path.is_dir()]
OPTIONS = [(group, option) for group in sorted(GROUPS) for option in options_of(group)]


@pytest.fixture
def tiny_data(tmp_path):
    """A few images in the shape of each data set, under the names that its loader reads."""
    for option in options_of("dataset"):
        config = yaml.safe_load((CONF / "dataset" / f"{option}.yaml").read_text())
        side, count = config["image_size"], 40
        images = np.zeros((count, side, side, config["channels"]), np.uint8)
        labels = np.arange(count) % config["num_classes"]
        np.savez(tmp_path / f"{option}.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    return tmp_path


@pytest.mark.parametrize("group, option", OPTIONS)
def test_runs(launch, only_run, tiny_data, group, option):
    """One epoch of a narrow network with the option, whatever it is; new ones are found here by themselves."""
    words = [*TINY, f"dataset.root={tiny_data}", f"{group}={option}"]
    if group == "dataset":
        words.append("dataset.batch_size=20")
    if group == "experiment":
        words.append("scale=smoke")
    if group == "method":  # some of them have levels in place of epochs
        words = [word for word in words if "max_epochs" not in word] + ["scale=smoke"]
    if option == "theory":
        words.append("method.name=lower")
    if (group, option) == ("sparsity", "file"):
        launch("method=draw", "sparsity=erk", "model.width=0.25", f"paths.root={tiny_data}/source")
        words.append(f"sparsity.file={next((tiny_data / 'source').rglob('run.json')).parent}")
    status, printed = launch(*words)
    if group == "trainer" and "there is no GPU here" in printed:
        pytest.skip("no GPU")
    if group == "trainer" and "this machine has" in printed:
        pytest.skip("one core")
    assert status == 0, printed
    if "theory" not in option and option != "draw":
        assert len((only_run() / "metrics.csv").read_text().splitlines()) > 1


@pytest.mark.parametrize(
    "words", ["optimizer.name=adam", "model.init=layer", "sparsity.flow=resample", "dataset.augment=false"]
)
def test_other_values_run(launch, only_run, words):
    status, printed = launch(*TINY, words)
    assert status == 0 and (only_run() / "network.safetensors").exists(), printed


def test_a_dashboard_gets_the_figures_and_no_paths(launch, only_run, tmp_path):
    import json

    launch(*TINY, f"paths.root={tmp_path}/first")
    first = next((tmp_path / "first").rglob("run.json")).parent
    launch(*TINY, "logger=wandb", f"model.init_from={first}", f"dataset.root={tmp_path}/elsewhere")
    record = json.loads((only_run() / "run.json").read_text())
    (offline,) = (only_run() / "wandb").glob("offline-run-*")
    assert offline.name.endswith(record["wandb_id"])
    stored = b"".join(path.read_bytes() for path in offline.glob("*.wandb"))
    assert b"test/acc" in stored and b"resnet20" in stored
    assert str(first).encode() not in stored and f"{tmp_path}/elsewhere".encode() not in stored


@pytest.mark.parametrize("sparsity", options_of("sparsity"))
def test_every_sparsity_draws_at_the_density_it_names(launch, only_run, tmp_path, sparsity):
    import json

    extra = []
    if sparsity == "file":
        launch("method=draw", "sparsity=erk", f"paths.root={tmp_path}/source")
        extra = [f"sparsity.file={next((tmp_path / 'source').rglob('run.json')).parent}"]
    status, _ = launch("method=draw", f"sparsity={sparsity}", "sparsity.sampling=exact", *extra)
    record = json.loads((only_run() / "run.json").read_text())
    assert status == 0
    for layer in record["layers"]:
        assert layer["drawn"] == round(layer["density"] * layer["size"])


def test_the_first_line_of_every_option_says_what_it_is():
    for group, option in OPTIONS:
        lines = (Path(CONF) / group / f"{option}.yaml").read_text().splitlines()
        first = next(line for line in lines if "@package" not in line)
        assert first.startswith("# ") and first.endswith((".", "?")), f"{group}/{option}: {first}"
