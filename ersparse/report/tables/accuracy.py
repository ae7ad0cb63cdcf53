"""Trained runs as rows: a group's accuracy, the paper's, and what the network is; and differences between groups."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any

from ersparse.report.analysis.compare import OTHER, Verdict, judge, printed_for
from ersparse.report.analysis.groups import Group, varying
from ersparse.report.analysis.stats import paired, seeds_needed, summary
from ersparse.report.tables.writer import Column, Row, Table, decimals

POINTS, SIGNED, SHARE = decimals(2), decimals(2, signed=True), decimals(5)
SAID = {"model.name", "dataset.name", "sparsity.name", "method.name"}  # these have columns in any case


def identity(groups: Sequence[Group]) -> list[Column]:
    """Columns that say which group a row is: always the first six, then whatever else differs."""
    return [
        Column("model", "model", number=False),
        Column("dataset", "data", number=False),
        Column("method", "method", number=False),
        Column("sparsity", "densities", number=False),
        Column("level", "sparsity"),
        Column("final", "final"),
        *(Column(key, key, number=False) for key in varying(groups) if key not in SAID),
    ]


def who(group: Group, columns: Sequence[Column], names: Mapping[str, str]) -> Row:
    """A group's values of those columns, and what it is called among the others."""
    own = {"model", "dataset", "method", "sparsity", "level", "final"}
    return {
        column.key: getattr(group, column.key) if column.key in own else _plain(group.config.get(column.key))
        for column in columns
    } | {"label": names[group.hash], "hash": group.hash[:8], "unfinished": unfinished(group)}


def _plain(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def unfinished(group: Group) -> str | None:
    """Seeds without a result: "seed 2 failed, seed 3 missing"."""
    words = [f"seed {run.seed} {run.state}" for run in group.unfinished]
    return ", ".join(words + [f"seed {seed} missing" for seed in group.missing]) or None


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
    Column("effective", "effective", SHARE),
    Column("flops", "MFLOPs an image", decimals(2)),
    Column("flops_share", "of dense", decimals(4)),
    Column("seconds", "s a run", decimals(0)),
    Column("unfinished", "not finished", number=False),
    Column("hash", "hash", number=False),
]


def results(groups: Sequence[Group], title: str) -> Table:
    """A row for each group of trained runs; per cent."""
    columns, names = identity(groups), labels(groups)
    return Table(title, [*columns, *RESULTS], [who(group, columns, names) | _figures(group) for group in groups])


def _figures(group: Group) -> Row:
    ours = summary(list(percent(group, "test/acc").values()))
    number = printed_for(group)
    verdict = judge(group, ours, number) if number else Verdict("", "")
    difference = None
    if number and ours.mean is not None and verdict.word != OTHER:
        difference = ours.mean - number.value
    return {
        "n": ours.n, "mean": ours.mean, "sd": ours.sd, "low": ours.low, "high": ours.high,
        "at_best_val": summary(list(percent(group, "test/acc_at_best_val").values())).mean,
        "best_test": summary(list(percent(group, "test/acc_best").values())).mean,
        "printed": number.value if number else None,
        "printed_pm": number.pm if number else None,
        "table": number.table if number else None,
        "difference": difference,
        "in_spreads": difference / number.pm if number and number.pm and difference is not None else None,
        "verdict": verdict.word or None, "why": verdict.why or None,
        "seconds": average(group, lambda run: run.timing.get("fit_s")),
    } | network(group)  # fmt: skip


def network(group: Group) -> Row:
    """What the networks of a group are, on average over its finished runs."""
    return {
        "nominal": average(group, lambda run: run.sparsity.get("nominal")),
        "realised": average(group, lambda run: run.sparsity.get("realised")),
        "effective": average(group, lambda run: run.sparsity.get("effective")),
        "flops": average(group, lambda run: run.flops[0] / 1e6 if run.flops else None),
        "flops_share": average(group, lambda run: run.flops[0] / run.flops[1] if run.flops else None),
    }


def percent(group: Group, metric: str) -> dict[int, float]:
    """Seed -> an accuracy, in per cent."""
    return {seed: 100 * value for seed, value in group.values(metric).items()}


def average(group: Group, of: Callable[[Any], float | None]) -> float | None:
    """Over the finished runs that have it."""
    return summary([value for run in group.done.values() if (value := of(run)) is not None]).mean


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


def differences(groups: Sequence[Group], title: str) -> Table:
    """Every two groups that are asked for as many weights, in the source and in the end: points by which the first is
    better, seed by seed. A wide and sparse network may have as many as a narrow one.
    """
    rows, names = [], labels(groups)
    for one, other in combinations(groups, 2):
        if (one.model, one.dataset, _weights(one)) == (other.model, other.dataset, _weights(other)):
            rows.append(_difference(one, other, names))
    rows.sort(key=lambda row: (row["model"], row["dataset"], -row["start"], -row["end"]))
    note = (
        "Seeds to see it: pairs of runs with which a two-sided t-test at 5 % sees a difference of this size and "
        "spread in four of five experiments."
    )
    return Table(title, DIFFERENCES, rows, [note])


def _weights(group: Group) -> tuple[float, float]:
    """How many are asked for, in the source and in the end; shares, as long as no run knows its layers."""
    total = sum(layer.size for layer in group.first.layers)
    start, end = 1 - group.level, 1 - group.final
    return (round(start * total), round(end * total)) if total else (start, end)


def _difference(one: Group, other: Group, names: Mapping[str, str]) -> Row:
    found = paired(percent(one, "test/acc"), percent(other, "test/acc"))
    needed = None
    if found.mean is not None and found.sd is not None:
        needed = seeds_needed(found.mean, found.sd) or "> 1000"
    start, end = _weights(one)
    return {
        "model": one.model, "dataset": one.dataset, "start": start, "end": end,
        "level": one.level if one.level == other.level else None,
        "final": one.final if one.final == other.final else None,
        "first": names[one.hash], "second": names[other.hash],
        "n": found.n, "difference": found.mean, "sd": found.sd, "low": found.low, "high": found.high,
        "seeds_needed": needed,
    }  # fmt: skip


def labels(groups: Sequence[Group]) -> dict[str, str]:
    """Hash -> what a group is called beside others of the same sparsities: "erk", or "erk, rigl, flow=none"."""
    keys = [key for key in varying(groups) if key not in ("model.name", "dataset.name", "sparsity.name")]
    return {
        group.hash: ", ".join([group.sparsity, *filter(None, (_word(group, key) for key in keys))]) for group in groups
    }


def _word(group: Group, key: str) -> str:
    """A setting in short; nothing for one that is off, or that the group's method has not."""
    name, value = key.rpartition(".")[2], _plain(group.config.get(key))
    if value in ("null", "false") or (name, value) == ("control", "none"):
        return ""
    return value if key == "method.name" else name if value == "true" else f"{name}={value}"
