"""Tables of trained groups: test accuracy beside the paper's number, and paired differences."""

from __future__ import annotations

from collections.abc import Sequence

from ersparse.report.analysis.accuracy import accuracy_rows, difference_rows
from ersparse.report.analysis.compare import assumptions
from ersparse.report.analysis.groups import SeedGroup
from ersparse.report.analysis.labels import setting_keys
from ersparse.storage.tables import Column, Table, decimals

POINTS, SIGNED, SHARE = decimals(2), decimals(2, signed=True), decimals(5)


def identity_columns(groups: Sequence[SeedGroup]) -> list[Column]:
    """Return the columns that identify a group: six fixed ones, then one per setting that differs."""
    return [
        Column("model", "model", number=False),
        Column("dataset", "data", number=False),
        Column("method", "method", number=False),
        Column("sparsity", "densities", number=False),
        Column("level", "sparsity"),
        Column("final", "final"),
        *(Column(key, key, number=False) for key in setting_keys(groups)),
    ]


RESULTS = [
    Column("n", "n"),
    Column("mean", "last epoch", POINTS),
    Column("sd", "±", POINTS),
    Column("low", "95 % from", POINTS),
    Column("high", "to", POINTS),
    Column("at_best_val", "at best val.", POINTS),
    Column("best_test", "best test", POINTS),
    Column("printed", "paper", POINTS),
    Column("printed_pm", "paper ±", POINTS),
    Column("difference", "difference", SIGNED),
    Column("in_spreads", "in paper's ±", decimals(1, signed=True)),
    Column("verdict", "verdict", number=False),
    Column("why", "why", number=False),
    Column("realised", "realised", SHARE),
    Column("realised_of_all", "of all matrices", SHARE),
    Column("effective", "effective", SHARE),
    Column("flops", "MFLOPs an image", decimals(2)),
    Column("flops_share", "of dense", decimals(4)),
    Column("seconds", "s a run", decimals(0)),
    Column("unfinished", "not finished", number=False),
    Column("hash", "hash", number=False),
]
DIFFERENCES = [
    Column("model", "model", number=False),
    Column("dataset", "data", number=False),
    Column("start", "weights"),
    Column("end", "in the end"),
    Column("level", "sparsity"),
    Column("final", "final"),
    Column("first", "first", number=False),
    Column("second", "second", number=False),
    Column("n", "common seeds"),
    Column("difference", "first − second", SIGNED),
    Column("sd", "±", POINTS),
    Column("low", "95 % from", SIGNED),
    Column("high", "to", SIGNED),
    Column("seeds_needed", "seeds to see it"),
]
SEEDS_TO_SEE_IT = (
    "seeds to see it: number of common seeds with which a paired two-sided t-test at 5 % detects a difference of this "
    "size and standard deviation with a power of 0.8."
)


def results(groups: Sequence[SeedGroup], title: str) -> Table:
    """Return the results table: one row per group of trained runs, accuracies in per cent."""
    rows = accuracy_rows(groups)
    unused = set() if any(row["realised_of_all"] is not None for row in rows) else {"realised_of_all"}
    columns = [*identity_columns(groups), *(column for column in RESULTS if column.key not in unused)]
    return Table(title, columns, rows, assumptions(rows))


def differences(groups: Sequence[SeedGroup], title: str) -> Table:
    """Return the table of paired differences, in percentage points, between groups of as many weights."""
    return Table(title, DIFFERENCES, difference_rows(groups), [SEEDS_TO_SEE_IT])
