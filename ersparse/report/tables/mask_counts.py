"""Table of drawn masks: the counts of Tables 5 and 6, beside their expectation and the paper's number."""

from __future__ import annotations

from collections.abc import Sequence

from ersparse.report.analysis.groups import SeedGroup
from ersparse.report.analysis.mask_counts import count_rows
from ersparse.report.tables.accuracy import identity_columns
from ersparse.storage.tables import Column, Table, decimals

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
    "pairs: number of (layer, direction) pairs in which the mask as drawn has a channel without an edge; the paper "
    "prints this number as edges added. expected, z: expectation by the closed form, z-score of the sum over seeds; "
    "– if the count has no variance. chance of that: two-sided probability of a sum at least as extreme, by its exact "
    "distribution, which is far from normal if only few values are possible.",
    "edges added: weights that flow repair puts into channels without an edge; output channels are repaired first.",
]


def counters(groups: Sequence[SeedGroup], title: str) -> Table:
    """Return the table of counts: one row per group of drawn masks."""
    return Table(title, [*identity_columns(groups), *COUNTERS], count_rows(groups), NOTES)
