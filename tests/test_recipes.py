"""docs/recipes.md: each recipe runs, at smoke scale on a narrow network."""

import shlex
from pathlib import Path

import pytest
from conftest import read
from omegaconf import OmegaConf
from test_docs import ROOT, blocks_of, commands_of

from ersparse.data import digits
from ersparse.data.arrays import Arrays

RECIPES = [command for block in blocks_of(ROOT / "docs/recipes.md", "bash") for command in commands_of(block)]
OF_THE_SCALE = ("dataset=", "dataset.root=", "dataset.image_size=", "dataset.batch_size=", "trainer.max_epochs=")


@pytest.mark.slow
@pytest.mark.parametrize("command", RECIPES, ids=lambda command: shlex.split(command)[2])
def test_recipes_run_at_smoke_scale(launch, only_run, monkeypatch, command):
    """A part of digits is enough to see that every key is taken."""
    whole = digits.load(Path(), False)
    few = Arrays(whole.x_train[:160], whole.y_train[:160], whole.x_test[:40], whole.y_test[:40])
    monkeypatch.setattr(digits, "load", lambda root, download: few)
    words = [word for word in shlex.split(command)[2:] if not word.startswith(OF_THE_SCALE)]
    status, printed = launch(*words, "scale=smoke", "model.width=0.25", "dataset.batch_size=40")
    assert status == 0, printed
    record = read(only_run())
    assert record["state"] == "done" and record["metrics"]["train/loss"] > 0
    for word in words:
        key, _, value = word.partition("=")
        group, _, name = key.partition(".")
        if name:
            assert record["config"][group][name] == OmegaConf.from_dotlist([f"value={value}"])["value"]
