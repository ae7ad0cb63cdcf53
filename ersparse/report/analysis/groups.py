"""Runs that differ in their seed alone, and what tells such groups apart."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ersparse.report.analysis.runs import Run

# Says where and how a run happened, or what another key says already.
LEFT_OUT = {
    "seed", "experiment", "sparsity.level", "sparsity.budget", "method.final_sparsity", "dataset.root",
    "dataset.download", "dataset.images", "dataset.epochs", "model.sync_batchnorm", "scale.epochs",
}  # fmt: skip
HOW = {"accelerator", "devices", "num_nodes", "precision", "execution", "detect_anomaly"}  # of trainer


@dataclass(frozen=True)
class Group:
    """The runs of one configuration.

    Attributes:
        runs: by seed.
        missing: seeds that other groups of the experiment have.
    """

    experiment: str
    hash: str
    runs: Sequence[Run]
    missing: Sequence[int] = ()

    @property
    def name(self) -> str:
        return f"{self.experiment}-{self.hash[:8]}"

    @cached_property
    def done(self) -> dict[int, Run]:
        return {run.seed: run for run in self.runs if run.done}

    @property
    def first(self) -> Run:
        """One that is finished, where there is one."""
        return next(iter(self.done.values()), self.runs[0])

    @property
    def unfinished(self) -> list[Run]:
        return [run for run in self.runs if not run.done]

    @property
    def kind(self) -> str:
        return self.runs[0].kind

    @cached_property
    def config(self) -> dict[str, Any]:
        """Key -> value, as on the command line: "sparsity.level"."""
        return flat(self.runs[0].config)

    @property
    def model(self) -> str:
        return str(self.config["model.name"])

    @property
    def dataset(self) -> str:
        return str(self.config["dataset.name"])

    @property
    def method(self) -> str:
        return str(self.config["method.name"])

    @property
    def sparsity(self) -> str:
        return str(self.config["sparsity.name"])

    @property
    def level(self) -> float:
        """Of the source: what was asked for, or what the file or the budget comes to."""
        nominal = self.runs[0].sparsity.get("nominal")
        return float(self.config["sparsity.level"] if nominal is None else nominal)

    @property
    def final(self) -> float:
        """Where the method ends."""
        final = self.config.get("method.final_sparsity")
        return self.level if final is None else float(final)

    def values(self, metric: str) -> dict[int, float]:
        """Seed -> a metric of the finished runs that have it."""
        found = {seed: run.metrics.get(metric) for seed, run in self.done.items()}
        return {seed: value for seed, value in found.items() if value is not None}


def group(runs: Iterable[Run]) -> dict[str, list[Group]]:
    """Experiment -> its groups, ordered by network, data, method, option and sparsity."""
    found: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        found.setdefault((run.experiment, run.hash), []).append(run)
    seeds: dict[str, set[int]] = {}
    for (experiment, _), some in found.items():
        seeds.setdefault(experiment, set()).update(run.seed for run in some)
    experiments: dict[str, list[Group]] = {}
    for (experiment, hash_), some in found.items():
        missing = sorted(seeds[experiment] - {run.seed for run in some})
        some = sorted(some, key=lambda run: run.seed)
        experiments.setdefault(experiment, []).append(Group(experiment, hash_, some, missing))
    return {name: _ordered(groups) for name, groups in sorted(experiments.items())}


def _ordered(groups: list[Group]) -> list[Group]:
    keys = varying(groups)

    def order(group: Group) -> tuple[Any, ...]:
        if group.kind == "theory":
            return ("", "", group.method, "", (), 0.0, 0.0, group.hash)
        settings = tuple(_rank(group.config.get(key)) for key in keys)
        return (
            group.model,
            group.dataset,
            group.method,
            group.sparsity,
            settings,
            group.level,
            group.final,
            group.hash,
        )

    return sorted(groups, key=order)


def _rank(value: Any) -> tuple[int, float, str]:
    """Numbers by their size, before words."""
    return (0, float(value), "") if isinstance(value, int | float) else (1, 0.0, str(value))


def flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values by dotted key."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = value
    return found


def varying(groups: Sequence[Group]) -> list[str]:
    """Keys that tell the groups apart, beside the sparsities: none that the option of its own group decides.

    Where `dataset.name` differs, so do the mean and deviation of its pixels; that goes without saying, as does what
    `variant` decides.
    """
    keys = dict.fromkeys(key for group in groups for key in group.config)
    return [key for key in keys if _differs(key, groups) and not _follows(key, groups)]


def _differs(key: str, groups: Sequence[Group]) -> bool:
    part, _, last = key.partition(".")
    if key in LEFT_OUT or last == "_target_" or (part == "trainer" and last in HOW):
        return False
    return len({str(group.config.get(key)) for group in groups}) > 1


def _follows(key: str, groups: Sequence[Group]) -> bool:
    part, _, last = key.partition(".")
    if last in ("name", "") or part == key:
        return False
    return any(_decides(choice, key, groups) for choice in (f"{part}.name", "variant"))


def _decides(choice: str, key: str, groups: Sequence[Group]) -> bool:
    by_option: dict[str, set[str]] = {}
    for group in groups:
        by_option.setdefault(str(group.config.get(choice)), set()).add(str(group.config.get(key)))
    return len(by_option) > 1 and all(len(values) == 1 for values in by_option.values())
