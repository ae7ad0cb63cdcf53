"""Runs of the theory experiments: output files, resume, skipping of finished runs, and rejected options."""

import json
import re
import subprocess
import sys
import time

import pytest
from conftest import ROOT

from ersparse import cli
from ersparse.cli.theory import NAMES, overrides
from ersparse.errors import UserError
from ersparse.theory import run as theory_run

TABLES = {
    "lemma": {"dense", "masked", "sizes"},
    "weak": {"success", "bound", "widths", "built"},
    "conv": {"bound", "widths", "built"},
    "strong": {"tickets"},
    "lower": {"success", "widths"},
}
QUICK = {"lemma": 100, "weak": 10, "conv": 10, "strong": 1, "lower": 50}


def tiny(name):
    return [f"experiment=theory_{name}", "scale=smoke", f"method.trials={QUICK[name]}", "method.p=[0.7]"]


@pytest.mark.parametrize("name", NAMES)
def test_a_run_writes_tables_and_plots(launch, only_run, tmp_path, name):
    status, printed = launch(*tiny(name), "seed=3")
    folder = only_run()
    assert status == 0, printed
    record = json.loads((folder / "run.json").read_text())
    assert record["state"] == "done" and record["seed"] == 3 and record["sparsity"] is None and record["layers"] == []
    assert record["progress"]["epoch"] == record["progress"]["epochs"] > 0 and record["metrics"]
    parts = folder.relative_to(tmp_path / "outputs").parts
    assert parts[0] == f"theory_{name}" and parts[2] == "s3"
    assert re.fullmatch(rf"{name}-[0-9a-f]{{8}}", parts[1]) and record["hash"].startswith(parts[1][-8:])
    assert {path.stem for path in folder.glob("*.csv")} == {path.stem for path in folder.glob("*.md")} == TABLES[name]
    assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert (folder / "run.log").exists() and (folder / "config.yaml").exists()


def test_a_finished_run_is_skipped_and_fresh_starts_over(launch, only_run):
    launch(*tiny("lower"))
    before = {path: path.stat().st_mtime_ns for path in only_run().iterdir()}
    status, printed = launch(*tiny("lower"))
    assert status == 0 and "already done" in printed
    assert before == {path: path.stat().st_mtime_ns for path in only_run().iterdir()}
    launch(*tiny("lower"), "fresh=true")
    assert (only_run() / "run.json").stat().st_mtime_ns > before[only_run() / "run.json"]


@pytest.mark.parametrize("name", ["lower", "weak"])
def test_an_interrupted_run_resumes_with_equal_results(launch, only_run, tmp_path, monkeypatch, name):
    words = [*tiny(name), "method.p=[0.3,0.7]"]
    launch(*words, f"paths.root={tmp_path}/whole")
    whole = next((tmp_path / "whole").rglob("run.json")).parent
    measured = []
    real = theory_run.experiment(name)

    class Interrupted:
        cells, report = staticmethod(real.cells), staticmethod(real.report)

        @staticmethod
        def measure(cell, random):
            if len(measured) == 3:
                measured.append(None)
                raise KeyboardInterrupt
            measured.append(cell)
            return real.measure(cell, random)

    monkeypatch.setattr(theory_run, "experiment", lambda _: Interrupted)
    status, _ = launch(*words)
    assert status == 130
    record = json.loads((only_run() / "run.json").read_text())
    assert record["state"] == "preempted" and record["progress"]["epoch"] == 3
    launch(*words)
    cells = [json.dumps(cell, sort_keys=True) for cell in measured if cell]
    assert len(cells) == len(set(cells)) == record["progress"]["epochs"]  # no cell is measured twice
    for path in [*whole.glob("*.csv"), whole / "cells.json", *whole.glob("*.png")]:
        assert path.read_bytes() == (only_run() / path.name).read_bytes(), path.name


@pytest.mark.slow
def test_a_killed_process_resumes(process, launch, only_run, tmp_path):
    words = ["experiment=theory_lemma", "scale=smoke", "method.trials=400"]
    run = process(*words)
    end = time.monotonic() + 60
    while not list((tmp_path / "outputs").rglob("cells.json")) and time.monotonic() < end:
        time.sleep(0.02)
    run.kill()
    run.communicate()
    found = json.loads((only_run() / "cells.json").read_text())
    assert json.loads((only_run() / "run.json").read_text())["state"] == "running" and found
    status, _ = launch(*words)
    after = json.loads((only_run() / "cells.json").read_text())
    assert status == 0 and {key: after[key] for key in found} == found
    launch(*words, f"paths.root={tmp_path}/again")
    again = next((tmp_path / "again").rglob("cells.json"))
    assert json.loads(again.read_text()) == after


@pytest.mark.slow
def test_the_options_that_apply_determine_the_folder(launch, tmp_path):
    for words in ([], ["seed=1"], ["method.delta=0.1"], ["method.p=[0.4]"], ["method.epsilon=0.2"], ["seeds.mask=4"]):
        launch(*tiny("lower"), *words)
    names = {path.parent.parent.name for path in (tmp_path / "outputs").rglob("run.json")}
    assert len(names) == 4  # the seed is not part of the name, and epsilon does not apply
    assert len(list((tmp_path / "outputs").rglob("run.json"))) == 5


def test_dry_run_creates_nothing(launch, tmp_path):
    status, printed = launch(*tiny("weak"), "dry_run=true")
    assert status == 0 and "state: new" in printed and "cells" in printed and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "words, line",
    [
        (["method.p=[0.5,0]"], "method.p.1=0: must lie in (0, 1]"),
        (["method.p=[1.5]"], "method.p.0=1.5: must lie in (0, 1]"),
        (["method.p=[]"], "method.p=[]: "),
        (["method.delta=1"], "method.delta=1: must lie in (0, 1)"),
        (["method.epsilon=0"], "method.epsilon=0: must lie in (0, 1)"),
        (["method.trials=0"], "method.trials=0: must lie in [1, inf)"),
        (["method.name=strange"], "method.name=strange: must be one of lemma, weak, conv, strong, lower"),
        (["method.deltas=0.1"], "method.deltas: no such key; did you mean method.delta?"),
        (["experiment=theory_lemma", "method.trials=9"], "method.trials=9: must be 100 or more"),
    ],
)
def test_invalid_options_are_rejected(launch, tmp_path, words, line):
    status, printed = launch("experiment=theory_lower", *words)
    assert status == 2 and printed.startswith(line) and printed.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_the_command_translates_to_a_preset():
    assert overrides(["weak", "p=0.1,0.5", "delta=0.1", "seed=2", "scale=smoke"]) == [
        "experiment=theory_weak",
        "method.p=[0.1,0.5]",
        "method.delta=0.1",
        "seed=2",
        "scale=smoke",
    ]
    assert overrides(["weak", "p=[0.1]"]) == ["experiment=theory_weak", "method.p=[0.1]"]


@pytest.mark.parametrize(
    "words, message",
    [
        (["upper"], "ersparse theory upper: must be one of lemma, weak, conv, strong, lower"),
        ([], "ersparse theory: must be one of lemma, weak, conv, strong, lower"),
        (["lower", "wide"], "wide: must be key=value"),
    ],
)
def test_invalid_arguments_are_rejected(words, message):
    with pytest.raises(UserError, match=message):
        overrides(words)


def test_the_command_runs_and_reports_errors(monkeypatch, capsys, tmp_path):
    def theory(*words):
        monkeypatch.setattr(sys, "argv", ["ersparse", "theory", *words, f"paths.root={tmp_path}/outputs"])
        return cli.main()

    assert theory("lower", "scale=smoke", "trials=20", "p=0.5") == 0 and "done: " in capsys.readouterr().out
    with pytest.raises(SystemExit, match="2"):
        theory("lower", "p=2")
    assert capsys.readouterr().err == "method.p.0=2: must lie in (0, 1]\n"


def test_theory_does_not_import_lightning():
    code = "import pkgutil, importlib, sys, ersparse.theory as t; "
    code += "[importlib.import_module(m.name) for m in pkgutil.walk_packages(t.__path__, 'ersparse.theory.')]; "
    code += "assert not [m for m in sys.modules if 'lightning' in m], [m for m in sys.modules if 'lightning' in m]"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
