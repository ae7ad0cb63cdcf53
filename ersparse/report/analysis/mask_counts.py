"""Counts of drawn masks (Tables 5 and 6), beside their exact distribution and the paper's numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from ersparse.report.analysis import closed_form
from ersparse.report.analysis.accuracy import network_means
from ersparse.report.analysis.closed_form import Moments
from ersparse.report.analysis.compare import AGREES, DIFFERS, OTHER, paper_number, recipe_differences
from ersparse.report.analysis.groups import SeedGroup
from ersparse.report.analysis.labels import identity_row, labels, setting_keys
from ersparse.report.analysis.runs import LayerRecord, Run
from ersparse.report.analysis.stats import summary
from ersparse.report.paper import Printed
from ersparse.storage.tables import Row

SIGNIFICANCE = 0.01  # two-sided: a printed sum less probable than this differs from the closed form


def count_rows(groups: Sequence[SeedGroup]) -> list[Row]:
    """Return one row per group of drawn masks; keys as in `tables.mask_counts.COUNTERS`."""
    keys, names = setting_keys(groups), labels(groups)
    return [identity_row(group, keys, names[group.hash]) | _counts(group) for group in groups]


def _counts(group: SeedGroup) -> Row:
    runs = list(group.done.values())
    row: Row = {"n": len(runs), **network_means(group)}
    if not runs or not runs[0].layers:
        return row
    found = summary([empty_pairs(run) for run in runs])
    row |= {"pairs": found.mean, "pairs_sd": found.sd}
    number = paper_number(group)
    row |= {"printed": number.value, "table": number.table} if number else {}
    if group.config["sparsity.sampling"] == "bernoulli":
        row |= _expected_pairs(runs, number)
        row |= _repaired_edges(group, runs)
    return row | (_verdict(group, number, row) if number else {})


def _verdict(group: SeedGroup, number: Printed, row: Row) -> Row:
    """Compare the printed number with its exact distribution, unless the settings are not those of the paper."""
    if apart := recipe_differences(group, number):
        return {"verdict": OTHER, "why": "; ".join(apart)}
    if "printed_odds" not in row:
        return {}
    why = f"the paper's {number.value:g} against {row['expected']:.2f} expected at these densities"
    return {"verdict": AGREES if row["printed_odds"] >= SIGNIFICANCE else DIFFERS, "why": why}


def empty_pairs(run: Run) -> int:
    """Count the (layer, direction) pairs in which the mask as drawn has a channel without an edge."""
    return sum((layer.zero_in > 0) + (layer.zero_out > 0) for layer in run.layers)


def _expected_pairs(runs: Sequence[Run], number: Printed | None) -> Row:
    """Return expectation, z-score and two-sided tail probability of our sum over seeds, and of the paper's."""
    distribution = closed_form.pair_distribution((layer.shape, layer.density) for layer in runs[0].layers)
    expected, total = closed_form.moments(distribution), sum(map(empty_pairs, runs))
    row: Row = {
        "expected": expected.mean,
        "expected_sd": math.sqrt(expected.variance),
        "z": expected.z(total, len(runs)),
        "odds": closed_form.tail_probability(distribution, total, len(runs)),
    }
    if number:
        printed_total = round(number.value * number.seeds)
        row["printed_z"] = expected.z(number.value * number.seeds, number.seeds)
        row["printed_odds"] = closed_form.tail_probability(distribution, printed_total, number.seeds)
    return row


def _repaired_edges(group: SeedGroup, runs: Sequence[Run]) -> Row:
    """Return the edges that flow repair added or moved, per direction; layers of density 0 are not repaired."""
    if group.config["sparsity.flow"] not in ("add", "move"):
        return {}
    layers = [(layer.shape, layer.density) for layer in runs[0].layers if layer.density > 0]
    edges_in, edges_out = closed_form.edges_in(layers), closed_form.edges_out(layers)
    return {
        **_edge_counts("edges_in", runs, lambda layer: layer.added_in + layer.moved_in, edges_in),
        **_edge_counts("edges_out", runs, lambda layer: layer.added_out + layer.moved_out, edges_out),
    }


def _edge_counts(key: str, runs: Sequence[Run], count: Callable[[LayerRecord], int], expected: Moments) -> Row:
    total = sum(count(layer) for run in runs for layer in run.layers)
    return {
        key: total / len(runs),
        f"{key}_expected": expected.mean,
        f"{key}_z": expected.z(total, len(runs)),
    }
