"""Densities of an iterative pruning run: reused, computed as a prerequisite, or an error that names the command."""

import shlex

import pytest
from conftest import read
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from ersparse.config.command_line import overrides
from ersparse.config.groups import build
from ersparse.config.options import CONF
from ersparse.config.schema import Settings
from ersparse.runs.planner import make_plan

SOURCE = ["sparsity=imp_multishot", "sparsity.level=0.8", "model.width=0.25"]
RUN = ["levels=1", "epochs_per_level=1", "final_epochs=1"]
SHORT = [*SOURCE, *(f"sparsity.run.method.{word}" for word in RUN), "method=draw"]


def settings_of(*given):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return build(Settings, OmegaConf.to_container(compose("config", list(given)), resolve=True))


def test_a_prerequisite_runs_once_for_all_dependents(launch, tmp_path):
    for seed in (1, 2):
        status, printed = launch(*SHORT, "sparsity.make=true", f"seeds.mask={seed}")
        assert status == 0 and ("prerequisite, the run" in printed) == (seed == 1), printed
    (made,) = (tmp_path / "cache").rglob("run.json")
    kept = {layer["name"]: layer["nonzero"] / layer["size"] for layer in read(made.parent)["layers"]}
    drawn = [read(path.parent) for path in (tmp_path / "outputs").rglob("run.json")]
    assert len(drawn) == 2 and drawn[0]["mask_sha256"] != drawn[1]["mask_sha256"]
    for record in drawn:
        assert {layer["name"]: layer["density"] for layer in record["layers"]} == kept
        assert record["config"]["sparsity"]["run"]["method"]["name"] == "imp"
    status, _ = launch(*SHORT, "sparsity.keep_mask=true", f"paths.root={tmp_path}/kept")  # and now without make
    record = read(next((tmp_path / "kept").rglob("run.json")).parent)
    assert status == 0 and record["mask_sha256"] == read(made.parent)["mask_sha256"]


def test_a_missing_prerequisite_names_its_command(launch, tmp_path):
    """The command in the message produces the run in any root folder."""
    status, printed = launch(*SHORT)
    assert status == 2 and printed.count("\n") == 1 and not list(tmp_path.iterdir())
    command = shlex.split(printed.split("`")[1])
    assert command[:2] == ["python", "launch.py"]
    status, printed = launch(*command[2:], f"paths.root={tmp_path}/outputs")
    assert status == 0, printed
    status, printed = launch(*SHORT)
    assert status == 0, printed


def test_a_dry_run_lists_the_prerequisite_first(launch, tmp_path):
    status, printed = launch(*SHORT, "dry_run=true")
    assert status == 0 and "first python launch.py model=resnet20" in printed and not list(tmp_path.iterdir())
    status, printed = launch("-m", "seed=0,1", *SHORT, "sparsity.make=true", "dry_run=true")
    lines = printed.splitlines()
    assert status == 0 and lines[0].startswith("first") and lines[1].startswith("first")
    assert lines[-1] == "2 jobs, after 2 for their densities"


@pytest.mark.parametrize(
    "given",
    ["", "model=vgg19 model.width=0.5 dataset=cifar100 seed=4 seeds.data=7", "variant=code dataset=cifar10",
     "method=synflow method.levels=3 optimizer.name=adam optimizer.milestones=[0.1] optimizer.lr=1e-3",
     "method=imp scale=short dataset.mean=[0.5] dataset.validation=0.2", "method=imp scale=smoke"],
)  # fmt: skip
def test_overrides_compose_to_the_same_prerequisite(given):
    settings = settings_of(*given.split())
    if settings.method["name"] == "fixed":
        settings = settings.model_copy(update={"method": settings_of("method=imp").method})
        settings = settings.model_copy(update={"sparsity": settings_of("sparsity=dense").sparsity})
    again = settings_of(*(word.replace("'", "") for word in overrides(settings)))
    assert (make_plan(again).hash, make_plan(again).folder) == (make_plan(settings).hash, make_plan(settings).folder)


def test_the_prerequisite_depends_on_its_recipe():
    hashes = [make_plan(settings_of("sparsity.make=true", *SHORT, *more.split())).hash
              for more in ("", "sparsity.run.method.levels=2", "sparsity.level=0.7", "sparsity.run.optimizer.lr=1",
                           "sparsity=synflow_multishot", "sparsity.keep_mask=true")]  # fmt: skip
    assert len(set(hashes)) == len(hashes)


@pytest.mark.slow
def test_tables_use_the_densities_of_figure_5(launch, tmp_path):
    """Tables 2 and 7 need no iterative run that is not part of Figure 5."""
    figure = launch("experiment=figure5", "seed=0", "dry_run=true")[1]
    for table, count in (("table2", 8), ("table7", 8)):
        status, printed = launch(f"experiment={table}", "seed=0", "dry_run=true")
        first = [line.split()[3] for line in printed.splitlines() if line.startswith("first")]
        assert status == 0 and len(first) == count
        assert all("/".join(folder.split("/")[-2:]) in figure for folder in first)
    assert not list(tmp_path.iterdir())


def test_invalid_recipes_are_refused(launch, tmp_path):
    for word, line in (
        ("sparsity.run.method.levels=0", "method.levels=0: must lie in [1, inf)"),
        ("sparsity.run.batch_size=1", "sparsity.run.batch_size=1: must lie in [2, inf)"),
        ("sparsity.run.optimizer.lr=0", "sparsity.run.optimizer.lr=0: must lie in (0, inf)"),
    ):
        status, printed = launch(*SHORT, word)
        assert status == 2 and line in printed and not list(tmp_path.iterdir()), printed
