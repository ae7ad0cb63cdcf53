"""Committed results, against what is known."""

import json

import pytest
from conftest import ROOT

from ersparse.report.runs import read_runs


def test_figure_6_has_the_known_densities():
    golden = json.loads((ROOT / "tests" / "golden" / "densities.json").read_text())["vgg19_100"]
    runs, skipped = read_runs(ROOT / "results" / "figure6")
    assert not skipped and len(runs) == 4
    for run in runs:
        name = run.config["sparsity"]["name"]
        known = golden["density"]["0.9"]["balanced_cap" if name == "balanced" else name]
        assert [layer.density for layer in run.layers] == pytest.approx(known, abs=1e-8)
        assert [list(layer.shape) for layer in run.layers] == golden["shapes"]
        assert run.machine and run.commit and run.command.startswith("python launch.py")
