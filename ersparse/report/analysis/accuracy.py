"""Results of trained groups: accuracy over seeds beside the paper's number, and differences between groups."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations

from ersparse.report.analysis.compare import OTHER, Verdict, judge, paper_number
from ersparse.report.analysis.groups import SeedGroup
from ersparse.report.analysis.labels import identity_row, labels, setting_keys
from ersparse.report.analysis.runs import Run
from ersparse.report.analysis.stats import paired, seeds_needed, summary
from ersparse.storage.tables import Row


def accuracy_rows(groups: Sequence[SeedGroup]) -> list[Row]:
    """Return one row per group of trained runs; accuracies in per cent, keys as in `tables.accuracy.RESULTS`."""
    keys, names = setting_keys(groups), labels(groups)
    return [identity_row(group, keys, names[group.hash]) | _results(group) for group in groups]


def _results(group: SeedGroup) -> Row:
    ours = summary(list(percent(group, "test/acc").values()))
    number = paper_number(group)
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
        "seconds": mean_over_runs(group, lambda run: run.timing.get("fit_s")),
    } | network_means(group)  # fmt: skip


def network_means(group: SeedGroup) -> Row:
    """Return sparsities and FLOPs of the group's networks, averaged over its finished runs."""
    return {
        "nominal": mean_over_runs(group, lambda run: run.sparsity.get("nominal")),
        "realised": mean_over_runs(group, lambda run: run.sparsity.get("realised")),
        "realised_of_all": mean_over_runs(group, lambda run: run.sparsity.get("realised_of_all")),
        "effective": mean_over_runs(group, lambda run: run.sparsity.get("effective")),
        "flops": mean_over_runs(group, lambda run: run.flops[0] / 1e6 if run.flops else None),
        "flops_share": mean_over_runs(group, lambda run: run.flops[0] / run.flops[1] if run.flops else None),
    }


def percent(group: SeedGroup, metric: str) -> dict[int, float]:
    """Return seed -> an accuracy in per cent."""
    return {seed: 100 * value for seed, value in group.values(metric).items()}


def mean_over_runs(group: SeedGroup, value_of: Callable[[Run], float | None]) -> float | None:
    """Return the mean over the finished runs that have the value; None if none has it."""
    return summary([value for run in group.done.values() if (value := value_of(run)) is not None]).mean


def difference_rows(groups: Sequence[SeedGroup]) -> list[Row]:
    """Return one row per pair of groups with equal numbers of weights in the source and at the end of training.

    The difference is first − second in percentage points, paired by seed. Groups are matched by the number of weights
    and not by sparsity, because a wide and sparse network may have as many weights as a narrow and dense one.
    """
    rows, names = [], labels(groups)
    for first, second in combinations(groups, 2):
        if (first.model, first.dataset, _weights(first)) == (second.model, second.dataset, _weights(second)):
            rows.append(_difference(first, second, names))
    rows.sort(key=lambda row: (row["model"], row["dataset"], -row["start"], -row["end"]))
    return rows


def _weights(group: SeedGroup) -> tuple[float, float]:
    """Return the nominal numbers of weights, in the source and at the end; densities while no run has its layers."""
    total = sum(layer.size for layer in group.first.layers)
    start, end = 1 - group.level, 1 - group.final
    return (round(start * total), round(end * total)) if total else (start, end)


def _difference(first: SeedGroup, second: SeedGroup, names: Mapping[str, str]) -> Row:
    found = paired(percent(first, "test/acc"), percent(second, "test/acc"))
    needed = None
    if found.mean is not None and found.sd is not None:
        needed = seeds_needed(found.mean, found.sd) or "> 1000"
    start, end = _weights(first)
    return {
        "model": first.model, "dataset": first.dataset, "start": start, "end": end,
        "level": first.level if first.level == second.level else None,
        "final": first.final if first.final == second.final else None,
        "first": names[first.hash], "second": names[second.hash],
        "n": found.n, "difference": found.mean, "sd": found.sd, "low": found.low, "high": found.high,
        "seeds_needed": needed,
    }  # fmt: skip
