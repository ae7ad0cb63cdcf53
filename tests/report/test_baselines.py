"""Numbers of other papers, and the variants of methods to which they belong."""

import json

import pytest
import synthetic
from conftest import read
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from ersparse.config.options import CONF, options_of
from ersparse.report.analysis.compare import OTHER, judge, paper_number
from ersparse.report.analysis.groups import group_by_experiment
from ersparse.report.analysis.runs import read_runs
from ersparse.report.analysis.stats import summary
from ersparse.report.paper import PrintedCell, number_of, paper, printed, recipe_of, tables
from ersparse.report.section import section
from ersparse.report.tables.accuracy import results

OTHERS = [name for name in tables() if name not in paper()["tables"]]


def test_every_table_is_complete():
    """The gain of Sign-In at 0.9 that its paper states is 1.58 points."""
    assert {name: len(printed(name)) for name in OTHERS} == {
        "sign_in_cifar10": 6, "sign_in_cifar100": 6, "ham_imagenet": 18, "ham_imagenet_acdc": 6,
        "rigl_imagenet": 4, "acdc_imagenet": 4, "str_imagenet": 6,
    }  # fmt: skip
    values = {(c.level, c.variant): n.value for c, n in printed("sign_in_cifar10").items()}
    assert values[0.9, "sign_in"] - values[0.9, ""] == pytest.approx(1.58)
    for name in OTHERS:
        assert {"source", "title", "assumed"} <= tables()[name].keys()
        assert all(number.pm is None or number.pm < 0.3 for number in printed(name).values())


def test_variants_have_numbers_of_their_own(tmp_path):
    """A run of Sign-In or HAM was compared with the number of a plain fixed mask."""
    changes = [{}, {"method": {"reparametrization": "sign_in"}}, {"optimizer": {"ham": {"alpha": 1.0, "beta": 0.0}}}]
    for seed in (0, 1):
        for number, change in enumerate(changes):
            folder = synthetic.write(tmp_path, seed=seed, experiment=f"{number}", model={"name": "resnet20"})
            record = read(folder)
            for group, keys in change.items():
                record["config"][group] |= keys
            (folder / "run.json").write_text(json.dumps(record))
    groups = [group for found in group_by_experiment(read_runs(tmp_path)[0]).values() for group in found]
    found = {group.variant: paper_number(group) for group in groups}
    assert (found[""].value, found["sign_in"].value, found["ham"]) == (86.25, 87.83, None)
    notes = results(groups, "title").notes
    assert len(notes) == 1 and "3 seeds and erk densities are assumptions" in notes[0] and "no verdict" in notes[0]
    assert notes[0] in section("mine", groups[:1]).latex()
    verdict = judge(groups[0], summary([90.0, 91.0]), found[""])
    assert verdict.word == OTHER and "instead of unknown" in verdict.why


def test_a_preset_is_compared_with_its_own_source():
    """RigL's runs were compared with the numbers that the README of HAM prints for RigL, which have a ±."""
    cell = PrintedCell("resnet50_imagenet", "imagenet", "rigl", "erk", 0.9, 0.9)
    found = [number_of(cell, experiment).value for experiment in ("rigl_imagenet", "ham_imagenet", "mine", "table4")]
    assert found == [73.07, 73.7, 73.7, 73.7]


@pytest.mark.parametrize(
    "final, value", [(0.9023, 74.31), (0.893, 74.31), (0.911, 74.31), (0.892, None), (0.9127, None), (0.9645, 67.22)]
)
def test_an_outcome_is_compared_with_the_nearest_printed_sparsity(final, value):
    """Densities 0.107 and 0.089 are within a tenth of 0.0977, 0.108 and 0.0873 are not."""
    cell = PrintedCell("resnet50_imagenet", "imagenet", "str", "dense", 0.0, final)
    number = number_of(cell, "mine", outcome=True)
    assert (number and number.value) == value
    assert final == 0.9023 or number_of(cell, "mine") is None, "only an outcome may differ from the printed sparsity"


PRESETS = [name for name in options_of("experiment") if name in OTHERS]


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_run_the_cells_of_their_tables(preset):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", [f"experiment={preset}"], return_hydra_config=True)
    content = tables()[preset]
    assert (config.model.name, config.dataset.name) == (content["model"], content["dataset"])
    for axes in config.hydra.sweeper.params:
        if "sparsity.level" in axes:
            assert list(axes["sparsity.level"]) == content["sparsity"]
        elif "method.final_sparsity" in axes:
            assert [[0.0, final] for final in axes["method.final_sparsity"]] == content["pairs"]
    assert config.method.name in content["values"]
    assert config.sparsity.name in content["values"][config.method.name]
    recipe = {key if key != "epochs" else "trainer.max_epochs": value for key, value in recipe_of(preset).items()}
    ours = {key: OmegaConf.select(config, key) for key in recipe}
    assert ours == recipe or recipe == {"trainer.max_epochs": "unknown"}
