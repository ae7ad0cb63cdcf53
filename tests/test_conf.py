"""Every option of every group composes, and runs as far as this machine can; every key is known to the settings."""

import os
from pathlib import Path

import pytest
from conftest import TINY

from ersparse.cli import CONF, options_of

GROUPS = [path.name for path in CONF.iterdir() if path.is_dir()]
OPTIONS = [(group, option) for group in sorted(GROUPS) for option in options_of(group)]
NEEDS = {("trainer", "gpu"): "a GPU", ("sparsity", "file"): "a file"}


@pytest.mark.parametrize("group, option", [o for o in OPTIONS if o not in NEEDS])
def test_plans(launch, group, option):
    if (group, option) == ("trainer", "ddp") and (os.cpu_count() or 1) < 2:
        pytest.skip("one core")
    status, printed = launch(f"{group}={option}", "dry_run=true")
    assert status == 0 and ("cells" if "theory" in option else "nominal density") in printed


@pytest.mark.parametrize(
    "words",
    [
        "logger=tensorboard",
        "logger=wandb",
        "trainer=cpu",
        "trainer=debug",
        "scale=smoke",
        "variant=code",
        "optimizer.name=adam",
    ],
)
def test_runs(launch, only_run, words):
    tiny = TINY if words != "trainer=debug" else [word for word in TINY if "epochs" not in word]
    status, printed = launch(*tiny, *words.split())
    assert status == 0, printed
    assert len((only_run() / "metrics.csv").read_text().splitlines()) == 2


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
