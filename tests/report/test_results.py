"""Committed results against independently known values."""

import json
import math
from collections import Counter

import pytest
from conftest import ROOT

from ersparse.report.analysis.groups import group_by_experiment
from ersparse.report.analysis.runs import read_runs
from ersparse.sources.pruner import SHIPPED

GOLDEN = json.loads((ROOT / "tests" / "golden" / "densities.json").read_text())["vgg19_100"]


def runs_of(name):
    runs, skipped = read_runs(ROOT / "results" / name)
    assert not skipped and all(run.done and run.machine and run.commit for run in runs)
    assert all(run.command.startswith("python launch.py") for run in runs)
    return runs


def known_densities(run):
    """Return the layer densities from the golden file; for snip, from the density file that is shipped."""
    name, level = run.config["sparsity"]["name"], f"{run.config['sparsity']['level']:g}"
    if name == "snip":
        (file,) = SHIPPED.glob(f"{run.config['model']['name']}-cifar100-snip{level}-*.json")
        return list(json.loads(file.read_text())["densities"].values())
    return GOLDEN["density"][level]["balanced_cap" if name == "balanced" else name]


def test_figure_6_has_the_known_densities():
    runs = runs_of("figure6")
    assert len(runs) == 5
    for run in runs:
        assert [layer.density for layer in run.layers] == pytest.approx(known_densities(run), abs=1e-8)
        assert [list(layer.shape) for layer in run.layers] == GOLDEN["shapes"]


@pytest.mark.parametrize("table", ["table5", "table6"])
def test_tables_5_and_6_are_complete_and_binomial(table):
    """Every cell has ten seeds, and each draw keeps a number of weights within 6 standard deviations of its mean.

    With 500 draws, the probability of a larger deviation is 1e-6.
    """
    runs = runs_of(table)
    assert set(Counter(run.hash for run in runs).values()) == {10} and len(runs) == 250
    for run in runs:
        if table == "table6" and run.seed == 0:
            assert [layer.density for layer in run.layers] == pytest.approx(known_densities(run), abs=1e-8)
        kept = sum(layer.drawn - layer.size * layer.density for layer in run.layers)
        variance = sum(layer.size * layer.density * (1 - layer.density) for layer in run.layers)
        assert abs(kept) <= 6 * math.sqrt(variance)
    (groups,) = group_by_experiment(runs).values()
    assert len(groups) == 25 and not any(each.missing for each in groups)
