"""The printed numbers: completeness, plausible ranges, agreement between tables, and the exact distributions."""

import numpy as np
import pytest
from hydra import compose, initialize_config_dir

from ersparse import models
from ersparse.config.options import CONF, options_of
from ersparse.report.analysis import closed_form
from ersparse.report.paper import PrintedCell, everything, paper, printed
from ersparse.sparse import density
from ersparse.sparse.layers import prunable_layers

# cells of each table, less those that are not printed: two of table7, three of table12
CELLS = [6, 28, 28, 9, 25, 25, 28 - 2, 20, 28, 28, 6, 4 - 3, 4, 4, 3, 20, 2, 20, 20, 18, 9]
TABLES = [f"table{number}" for number in range(1, 22)]
SAME = {"table2": "table9", "table3": "table10", "table4": "table20"}


def test_every_table_is_complete():
    assert list(paper()["tables"]) == TABLES
    assert [len(printed(table)) for table in TABLES] == CELLS


def test_values_lie_in_their_ranges():
    """Accuracies lie between chance level and 100, pairs between zero and two per layer."""
    for table in TABLES:
        content = paper()["tables"][table]
        classes = {"cifar10": 10, "cifar100": 100, "tiny_imagenet": 200}[content["dataset"]]
        most = {"table5": 2 * 54, "table6": 2 * 17}.get(table, 100)
        least = 0 if "measure" in content else 100 / classes - 0.2  # one test accuracy at chance is 9.83
        assert all(least <= number.value <= most for number in printed(table).values())
        assert all(number.pm is None or 0 <= number.pm <= 28 for number in printed(table).values())


@pytest.mark.parametrize("rounded, exact", SAME.items())
def test_tables_of_the_same_runs_agree(rounded, exact):
    assert paper()["tables"][rounded]["same_as"] == exact
    apart = [
        cell for cell, number in printed(rounded).items() if abs(number.value - printed(exact)[cell].value) > 0.051
    ]
    assert apart == (
        [PrintedCell("vgg19", "cifar100", "fixed", "imp_multishot", 0.8, 0.8)] if rounded == "table3" else []
    )
    assert all(everything()[cell].table == exact for cell in printed(rounded) if printed(exact)[cell].pm is not None)


RULES = {
    "uniform": density.uniform,
    "erk": density.erk,
    "balanced": lambda layers, p: density.balanced(layers, p, redistribute="none"),
    "pyramidal": density.pyramidal,
}


@pytest.mark.parametrize("table, network", [("table5", models.resnet50), ("table6", models.vgg19)])
def test_printed_pairs_agree_with_exact_distribution(table, network):
    """Sums over three seeds lie outside the 1 % tails of the exact distribution, with one exception."""
    layers = prunable_layers(network(100))
    far = []
    for cell, number in printed(table).items():
        if cell.sparsity in RULES:
            densities = RULES[cell.sparsity](layers, 1 - cell.level)
            found = closed_form.pair_distribution(zip([layer.shape for layer in layers], densities, strict=True))
            if closed_form.tail_probability(found, round(3 * number.value), 3) < 0.02:
                far.append((cell.sparsity, cell.level))
    assert far == ([("uniform", 0.9)] if table == "table5" else [])


def test_printed_means_are_of_three_integers():
    for table in ("table5", "table6"):
        assert all(abs(3 * number.value - round(3 * number.value)) < 0.011 for number in printed(table).values())


@pytest.mark.parametrize("preset", [name for name in options_of("experiment") if name.startswith("table")])
def test_presets_run_the_cells_of_their_tables(preset):
    """Model, data set, methods and sparsities are the paper's, so that each run has a printed number."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", [f"experiment={preset}"], return_hydra_config=True)
    params, content = config.hydra.sweeper.params, paper()["tables"][preset]
    assert (config.model.name, config.dataset.name) == (content["model"], content["dataset"])
    pairs, levels = params.get("sparsity.level,method.final_sparsity"), params.get("sparsity.level")
    if "method.final_sparsity" in params:  # from a dense source
        pairs = [[0.0, final] for final in params["method.final_sparsity"]]
    assert np.array_equal(pairs or list(levels), content.get("pairs", content.get("sparsity")))
    assert set(params.get("sparsity", [config.sparsity.name])) <= set(content["values"][config.method.name])
    assert len(params.seed) == content["seeds"] or content.get("measure") == "pairs"
