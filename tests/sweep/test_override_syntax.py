"""Overrides beyond Hydra's grammar reach the sweeper unchanged."""

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st

from ersparse.sweep.override_syntax import for_hydra, with_free_key

UNCHANGED = [["seed=1"], ["dry_run=true", "a.b=[1,2]"], ["--config-dir", "x", "seed=0"], [], ["a='x,y=z'"]]


@pytest.mark.parametrize("arguments", UNCHANGED)
def test_ordinary_overrides_are_unchanged(arguments):
    assert for_hydra(arguments) == arguments


def test_the_multirun_flag_may_stand_anywhere():
    assert for_hydra(["seed=0,1", "-m"]) == ["-m", "seed=0,1"]
    assert for_hydra(["a=1", "--multirun", "b=2"]) == ["-m", "a=1", "b=2"]


def test_zipped_axes_and_unions_are_quoted():
    assert for_hydra(["hydra.launcher.slots=2", "seed=0,1", "a,b=[1,2],[3,4]"]) == [
        "-m", "hydra.launcher.slots=2", "seed=0,1", "hydra.sweeper.words=['seed=0,1','a,b=[1,2],[3,4]']",
    ]  # fmt: skip
    assert for_hydra(["seed=0", "or", "seed=1", "-m"]) == [
        "-m",
        "seed=0",
        "hydra.sweeper.words=['seed=0','or','seed=1']",
    ]


def test_keys_of_a_swept_group_are_quoted():
    """Hydra would look for them in the group's default option, which may not have them."""
    assert for_hydra(["-m", "method=rigl,set", "method.delta_t=10,20", "seed=0"]) == [
        "-m", "method=rigl,set", "seed=0", "hydra.sweeper.words=['method=rigl,set','method.delta_t=10,20','seed=0']",
    ]  # fmt: skip
    for plain in (["-m", "method=rigl", "method.delta_t=10,20"], ["-m", "method=rigl,set", "model.width=2"]):
        assert for_hydra(plain) == plain


def test_arguments_of_hydra_itself_are_moved_out_of_any_grid():
    assert for_hydra(["--config-dir", "x", "a=0", "~b", "or", "a=1", "hydra.launcher.slots=1"]) == [
        "-m", "hydra.launcher.slots=1", "--config-dir", "x", "a=0", "~b", "hydra.sweeper.words=['a=0','~b','or','a=1']",
    ]  # fmt: skip
    assert for_hydra(["~hydra.sweeper.sampler.seed", "++hydra.sweeper.pruner.lower=1", "a=1", "or", "a=2"]) == [
        "-m", "~hydra.sweeper.sampler.seed", "++hydra.sweeper.pruner.lower=1", "a=1",
        "hydra.sweeper.words=['a=1','or','a=2']",
    ]  # fmt: skip


def test_a_search_is_a_sweep_whose_sampler_takes_any_key():
    assert for_hydra(["hydra/sweeper=optuna", "seed=1"]) == ["-m", "hydra/sweeper=optuna", "seed=1"]
    assert with_free_key("hydra.sweeper.sampler.n_startup_trials=5") == "++hydra.sweeper.sampler.n_startup_trials=5"


@given(st.lists(st.text(alphabet="ab=,.[]{}'\"\\$ :", min_size=1), min_size=1))
def test_hydra_parses_quoted_overrides_to_the_same_texts(texts):
    words = [f"key={text}" for text in texts]
    *_, quoted = for_hydra([*words, "or", "seed=1"])
    assert OverridesParser.create().parse_override(quoted).value() == [*words, "or", "seed=1"]
