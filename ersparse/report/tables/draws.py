"""Drawn networks as rows: the counters of Tables 5 and 6, beside what chance alone gives and what the paper prints."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from ersparse.report.analysis import closed_form
from ersparse.report.analysis.closed_form import Moments
from ersparse.report.analysis.compare import AGREES, DIFFERS, OTHER, deviations, printed_for
from ersparse.report.analysis.groups import Group
from ersparse.report.analysis.runs import LayerRow, Run
from ersparse.report.analysis.stats import summary
from ersparse.report.paper import Printed
from ersparse.report.tables.accuracy import identity, labels, network, who
from ersparse.report.tables.writer import Column, Row, Table, decimals

RARE = 0.01  # of the printed sums, how many may lie so far out by chance
TWO, Z = decimals(2), decimals(2, signed=True)

COUNTERS = [
    Column("n", "n"),
    Column("pairs", "pairs", TWO),
    Column("pairs_sd", "±", TWO),
    Column("expected", "expected", TWO),
    Column("expected_sd", "± of chance", TWO),
    Column("z", "z", Z),
    Column("odds", "chance of that", decimals(3)),
    Column("printed", "paper", TWO),
    Column("printed_z", "paper's z", Z),
    Column("printed_odds", "chance of that ", decimals(3)),
    Column("verdict", "verdict", number=False),
    Column("why", "why", number=False),
    Column("edges_in", "edges added, in", decimals(1)),
    Column("edges_in_expected", "expected", decimals(1)),
    Column("edges_in_z", "z", Z),
    Column("edges_out", "edges added, out", decimals(1)),
    Column("edges_out_expected", "expected", decimals(1)),
    Column("edges_out_z", "z", Z),
    Column("realised", "realised", decimals(5)),
    Column("effective", "effective", decimals(5)),
    Column("flops_share", "FLOPs, of dense", decimals(4)),
    Column("unfinished", "not finished", number=False),
    Column("hash", "hash", number=False),
]
NOTES = [
    "pairs: of a layer and a direction, in which the mask as drawn has a channel without an edge, which is what "
    "the paper prints as edges added. z: deviations from the closed form, of the sum over seeds; – where chance has no "
    "say. chance of that: how often a sum lies as far out, on either side, by its exact distribution, which is "
    "far from normal where few values are possible.",
    "edges added: weights that the repair puts into channels without an edge, rows first.",
]


def counters(groups: Sequence[Group], title: str) -> Table:
    """A row for each group of drawn networks."""
    columns, names = identity(groups), labels(groups)
    return Table(
        title, [*columns, *COUNTERS], [who(group, columns, names) | _figures(group) for group in groups], NOTES
    )


def _figures(group: Group) -> Row:
    runs = list(group.done.values())
    row: Row = {"n": len(runs), **network(group)}
    if not runs or not runs[0].layers:
        return row
    found = summary([pairs(run) for run in runs])
    row |= {"pairs": found.mean, "pairs_sd": found.sd}
    number = printed_for(group)
    row |= {"printed": number.value, "table": number.table} if number else {}
    if group.config["sparsity.sampling"] == "bernoulli":
        row |= _pairs_by_chance(runs, number)
        row |= _edges(group, runs)
    if number and (apart := deviations(group, number)):
        row |= {"verdict": OTHER, "why": "; ".join(apart)}
    elif number and "printed_odds" in row:
        why = f"the paper's {number.value:g} against {row['expected']:.2f} expected at these densities"
        row |= {"verdict": AGREES if row["printed_odds"] >= RARE else DIFFERS, "why": why}
    return row


def pairs(run: Run) -> int:
    """(layer, direction) pairs of the mask as drawn with a channel without an edge."""
    return sum((layer.zero_in > 0) + (layer.zero_out > 0) for layer in run.layers)


def _pairs_by_chance(runs: Sequence[Run], number: Printed | None) -> Row:
    distribution = closed_form.pairs((layer.shape, layer.density) for layer in runs[0].layers)
    expected, total = closed_form.moments(distribution), sum(map(pairs, runs))
    row: Row = {
        "expected": expected.mean,
        "expected_sd": math.sqrt(expected.variance),
        "z": expected.z(total, len(runs)),
        "odds": closed_form.chance(distribution, total, len(runs)),
    }
    if number:
        their_total = round(number.value * number.seeds)
        row["printed_z"] = expected.z(number.value * number.seeds, number.seeds)
        row["printed_odds"] = closed_form.chance(distribution, their_total, number.seeds)
    return row


def _edges(group: Group, runs: Sequence[Run]) -> Row:
    """Weights that repair put in, moved ones included; layers of density 0 are not repaired."""
    if group.config["sparsity.flow"] not in ("add", "move"):
        return {}
    layers = [(layer.shape, layer.density) for layer in runs[0].layers if layer.density > 0]
    return {
        **_edge("edges_in", runs, lambda layer: layer.added_in + layer.moved_in, closed_form.edges_in(layers)),
        **_edge("edges_out", runs, lambda layer: layer.added_out + layer.moved_out, closed_form.edges_out(layers)),
    }


def _edge(key: str, runs: Sequence[Run], count: Callable[[LayerRow], int], expected: Moments) -> Row:
    total = sum(count(layer) for run in runs for layer in run.layers)
    found: dict[str, Any] = {key: total / len(runs), f"{key}_expected": expected.mean}
    return found | {f"{key}_z": expected.z(total, len(runs))}
