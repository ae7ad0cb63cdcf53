"""Every option of every group composes and runs, as far as this machine can; every key is known to the settings."""

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import TINY, read
from hydra import compose, initialize_config_dir
from image_data import write_image_folder, write_mnist

from ersparse.config.options import CONF, options_of
from ersparse.data import digits
from ersparse.data.arrays import Arrays

GROUPS = [path.name for path in CONF.iterdir() if path.is_dir()]
OPTIONS = [(group, option) for group in sorted(GROUPS) for option in options_of(group)]
WORDS_OF = {  # beside those of the group
    "vit_tiny": ["model.patch=8"],
    "deit_small": ["model.patch=8"],
    "wrn28": ["model.widen=2"],
    "resnet50_imagenet": ["dataset=cifar10", "dataset.batch_size=20"],  # needs 32 pixels
    "timm": ["model.width=1"],
    "narrow": ["model.width=1"],
}
FILES_OF = {"image_folder": write_image_folder, "torchvision": write_mnist}
ELSEWHERE = [  # below, and in theory/test_runs, runs/test_mlflow, methods/test_rewiring, and data/
    *(("method", name) for name in ("srigl", "mest", "cht", "dsr", "sparse_momentum", "east")),
    ("trainer", "ddp"), ("logger", "mlflow"), ("dataset", "imagenet"), ("dataset", "huggingface"),
    *(each for each in OPTIONS if "theory_" in each[1] or ("_imagenet" in each[1] and each[0] == "experiment")),
]  # fmt: skip


@pytest.fixture
def tiny_data(tmp_path):
    """A few images in the shape of each data set, under the names that its loader reads."""
    for option in options_of("dataset"):
        config = yaml.safe_load((CONF / "dataset" / f"{option}.yaml").read_text())
        side, count = config["image_size"], 40
        if ("dataset", option) in ELSEWHERE:
            continue
        if option in FILES_OF:
            FILES_OF[option](tmp_path)
            continue
        images = np.zeros((count, side, side, config["channels"]), np.uint8)
        labels = np.arange(count) % config["num_classes"]
        np.savez(tmp_path / f"{option}.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    return tmp_path


@pytest.fixture
def few_digits(monkeypatch):
    """A tenth of them, for this process alone: enough to see that something runs."""
    whole = digits.load(Path(), False)
    few = Arrays(whole.x_train[:160], whole.y_train[:160], whole.x_test[:40], whole.y_test[:40])
    monkeypatch.setattr(digits, "load", lambda root, download: few)


@pytest.mark.parametrize("group, option", [each for each in OPTIONS if each not in ELSEWHERE])
def test_runs(launch, only_run, tiny_data, few_digits, group, option):
    """One epoch of a narrow network with the option, whatever it is; new ones are found here by themselves."""
    words = [*TINY, f"dataset.root={tiny_data}", f"{group}={option}", *WORDS_OF.get(option, [])]
    if group == "dataset":
        words.append("dataset.batch_size=20")
    if group == "experiment":  # one job of those that are sweeps
        words = [word for word in words if "max_epochs" not in word] + ["scale=smoke", "hydra.mode=RUN"]
    if group == "method":  # some of them have levels in place of epochs
        words = [word for word in words if "max_epochs" not in word] + ["scale=smoke"]
    if option == "theory":
        words.append("method.name=lower")
    if option.endswith(("_multishot", "_iterative")):
        words += ["sparsity.make=true", "scale=smoke"]
    if (group, option) == ("sparsity", "file"):
        launch("method=draw", "sparsity=erk", "model.width=0.25", f"paths.root={tiny_data}/source")
        words.append(f"sparsity.file={next((tiny_data / 'source').rglob('run.json')).parent}")
    status, printed = launch(*words)
    if group == "trainer" and "there is no GPU here" in printed:
        pytest.skip("no GPU")
    assert status == 0, printed
    if "theory" not in option and read(only_run())["config"]["method"]["name"] != "draw":
        assert len((only_run() / "metrics.csv").read_text().splitlines()) > 1


@pytest.mark.slow
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one core")
def test_ranks_run(launch, only_run):
    status, printed = launch(*TINY, "trainer=ddp")
    assert status == 0 and len((only_run() / "metrics.csv").read_text().splitlines()) > 1, printed


@pytest.mark.parametrize(
    "words",
    [
        "optimizer.name=adam",
        "model.init=layer",
        "sparsity.flow=resample",
        "dataset.augment=false",
        "sparsity.sampling=fan_in",
    ],
)
def test_other_values_run(launch, only_run, words):
    status, printed = launch(*TINY, words)
    assert status == 0 and (only_run() / "network.safetensors").exists(), printed


def test_a_dashboard_gets_the_figures_and_no_paths(launch, finished, tmp_path):
    words = ["logger=wandb", f"model.init_from={finished}", f"dataset.root={tmp_path}/elsewhere"]
    launch(*TINY, *words, f"paths.root={tmp_path}/second")
    (record,) = (tmp_path / "second").rglob("run.json")
    (offline,) = (record.parent / "wandb").glob("offline-run-*")
    assert offline.name.endswith(read(record.parent)["wandb_id"])
    deadline = time.monotonic() + 20  # W&B's own process writes the file, on a busy machine after the run has ended
    while b"test/acc" not in (stored := b"".join(path.read_bytes() for path in offline.glob("*.wandb"))):
        assert time.monotonic() < deadline, "W&B has not written the metrics"
        time.sleep(0.1)
    assert b"test/acc" in stored and b"resnet20" in stored
    assert str(finished).encode() not in stored and f"{tmp_path}/elsewhere".encode() not in stored


@pytest.mark.parametrize("sparsity", options_of("sparsity"))
def test_every_sparsity_draws_at_the_density_it_names(launch, only_run, few_digits, tmp_path, sparsity):
    words = ["method=draw", "model.width=0.25", "sparsity.sampling=exact", *WORDS_OF.get(sparsity, [])]
    if sparsity == "file":
        launch(*words, "sparsity=erk", f"paths.root={tmp_path}/source")
        words.append(f"sparsity.file={next((tmp_path / 'source').rglob('run.json')).parent}")
    if sparsity.endswith(("_multishot", "_iterative")):
        words += ["sparsity.make=true", "scale=smoke"]
    status, printed = launch(*words, f"sparsity={sparsity}")
    assert status == 0, printed
    for layer in read(only_run())["layers"]:
        assert layer["drawn"] == round(layer["density"] * layer["size"])


def test_the_first_line_of_every_option_says_what_it_is():
    for group, option in OPTIONS:
        lines = (Path(CONF) / group / f"{option}.yaml").read_text().splitlines()
        first = next(line for line in lines if "@package" not in line)
        assert first.startswith("# ") and first.endswith((".", "?")), f"{group}/{option}: {first}"


# what the captions and rows of the paper add up to, and what is left at smoke scale: one seed, both ends of each axis
JOBS = {
    "table1": (18, 2),
    "table4": (27, 4),
    "table5": (250, 4),  # ten seeds, where the paper has three
    "table6": (250, 4),
    "figure6": (5, 2),
    "table8": (60, 4),
    "table11": (18, 2),
    "table12": (12, 2),
    "table13": (12, 2),
    "table14": (12, 2),
    "table15": (3, 2),
    "table16": (60, 4),
    "table18": (60, 4),
    "table19": (60, 4),
    "table21": (27, 4),
    "figure2": (120, 8),
    "width": (45, 5),
    "seeds": (40, 7),
    "controls": (50, 6),
    "table2": (84, 6),  # with the two runs that have the densities at the ends
    "table3": (84, 6),
    "table7": (84, 6),
    "figure5": (48, 8),
    "table17": (2, 2),
}


# one of each kind; all jobs of the others take a minute
QUICK = {"table1", "table2", "table4", "table5", "figure5", "width", "seeds", "controls"}


@pytest.mark.parametrize(
    "preset", [preset if preset in QUICK else pytest.param(preset, marks=pytest.mark.slow) for preset in JOBS]
)
def test_presets_have_the_jobs_of_their_tables(launch, tmp_path, preset):
    status, printed = launch(f"experiment={preset}", "dry_run=true")
    assert status == 0 and f"{JOBS[preset][0]} new" in printed and not list(tmp_path.iterdir()), printed


@pytest.mark.parametrize(
    "preset, jobs",
    [
        ("rigl_imagenet", 4),
        ("acdc_imagenet", 4),
        ("str_imagenet", 1),
        pytest.param("ham_imagenet", 54, marks=pytest.mark.slow),
        pytest.param("ham_imagenet_acdc", 18, marks=pytest.mark.slow),
    ],
)
def test_presets_of_imagenet_are_planned_without_its_images(launch, tmp_path, preset, jobs):
    status, printed = launch(f"experiment={preset}", "dry_run=true")
    assert status == 0 and f"{jobs} new" in printed and not list(tmp_path.iterdir()), printed


@pytest.mark.slow
@pytest.mark.by_hand
@pytest.mark.parametrize("preset", JOBS)
def test_presets_run_at_smoke_scale(process, tmp_path, preset):
    """The whole sweep through the command line: both ends of its axes, one seed."""
    strong = preset in ("table1", "table11", "table12", "table13", "table14", "table15")
    width = 0.5 if strong else 0.25  # a ticket at 0.99 needs layers of fifty weights or more
    narrow = [] if preset == "width" else [f"model.width={width}"]
    sweep = process(f"experiment={preset}", "scale=smoke", *narrow)
    printed, _ = sweep.communicate(timeout=900)
    assert sweep.returncode == 0, printed
    records = [json.loads(path.read_text()) for path in tmp_path.rglob("run.json")]
    assert len(records) == JOBS[preset][1]
    assert all(record["state"] == "done" for record in records)
    assert {record["config"]["dataset"]["name"] for record in records} == {"digits"}


def test_a_variant_reaches_its_methods_only(launch, few_digits, tmp_path):
    """The released code's annealing for edge-popup, whose presets follow it; a plain run keeps its milestones."""
    for words in (["experiment=table1", "hydra.mode=RUN"], []):
        status, printed = launch("variant=code", "scale=smoke", "model.width=0.25", *words)
        assert status == 0, printed
    configs = [json.loads(path.read_text())["config"] for path in tmp_path.rglob("run.json")]
    by_method = {config["method"]["name"]: config for config in configs}
    assert by_method["edge_popup"]["method"]["schedule"] == "code"
    assert by_method["edge_popup"]["method"]["multiply_by"] == "scores"
    assert by_method["edge_popup"]["optimizer"]["milestones"] == [0.3, 0.6, 0.9]
    assert by_method["edge_popup"]["dataset"]["augment"] is False
    assert by_method["fixed"]["optimizer"]["milestones"] == [0.5, 0.75]
    assert {config["sparsity"]["flow"] for config in configs} == {"released"}


@pytest.mark.parametrize("preset, changed", [("table4", {"delta_t": 1000}), ("table21", {"prune_until": 0.5})])
def test_a_variant_wins_over_a_preset(preset, changed):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        methods = [compose("config", [f"experiment={preset}", f"variant={v}"]).method for v in ("paper", "code")]
    assert methods[0].delta_t == 100 and methods[1].delta_t == 1000 and methods[1].t_end == 1.0
    assert all(methods[1][key] == value != methods[0][key] for key, value in changed.items())
