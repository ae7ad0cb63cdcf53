"""Configurations and run folders that were written before keys were added."""

import yaml

import ersparse
from ersparse.config.groups import build
from ersparse.config.schema import Settings
from ersparse.runs.planner import make_plan


def as_written_before(config):
    """The configuration as version 0.1.0 wrote it: no targets of optimizers and loggers, no schedule."""
    del config["schedule"], config["optimizer"]["_target_"]
    config["logger"] = {"name": "csv", "project": None, "entity": None, "mode": "offline"}
    return config


def test_an_older_configuration_names_the_same_run(finished):
    config = yaml.safe_load((finished / "config.yaml").read_text())
    old = make_plan(build(Settings, as_written_before(config)))
    assert old.folder.resolve().parts[-3:] == finished.resolve().parts[-3:]


def test_an_older_configuration_finds_its_run_done(finished, tmp_path, capsys):
    config = as_written_before(yaml.safe_load((finished / "config.yaml").read_text()))
    config["paths"]["root"] = str(tmp_path / "outputs")
    before = (finished / "run.json").read_bytes()
    assert ersparse.run(config) == finished
    assert (finished / "run.json").read_bytes() == before
