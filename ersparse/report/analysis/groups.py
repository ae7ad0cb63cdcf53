"""Groups of runs that differ in their seed only. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ersparse.report.analysis.runs import Run
from ersparse.report.analysis.settings import flatten, varying_keys

OUTCOMES = ("str", "spred")  # methods whose final sparsity is an outcome of training


@dataclass(frozen=True)
class SeedGroup:
    """The runs of one configuration, one per seed.

    Attributes:
        hash: the hash of the configuration.
        runs: in the order of their seeds.
        missing: seeds that other groups of the experiment have and this one lacks.
    """

    experiment: str
    hash: str
    runs: Sequence[Run]
    missing: Sequence[int] = ()

    @cached_property
    def done(self) -> dict[int, Run]:
        """Seed -> finished run."""
        return {run.seed: run for run in self.runs if run.done}

    @property
    def first(self) -> Run:
        """The first finished run, or the first run if none is finished."""
        return next(iter(self.done.values()), self.runs[0])

    @property
    def unfinished(self) -> list[Run]:
        return [run for run in self.runs if not run.done]

    @property
    def kind(self) -> str:
        """Kind of its runs: "accuracy", "draw", or "theory"."""
        return self.runs[0].kind

    @cached_property
    def config(self) -> dict[str, Any]:
        """Dotted key -> value, as on the command line: "sparsity.level"."""
        return flatten(self.runs[0].config)

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
    def variant(self) -> str:
        """How weights are trained: "sign_in" or "pilot" (`method.reparametrization`), "ham", or "" as usual."""
        reparametrization = str(self.config.get("method.reparametrization", "none"))
        ham = self.config.get("optimizer.ham.alpha") or self.config.get("optimizer.ham.beta")
        return "ham" if ham else reparametrization.replace("none", "")

    @property
    def sparsity(self) -> str:
        """Option of the group `sparsity`."""
        return str(self.config["sparsity.name"])

    @property
    def level(self) -> float:
        """Nominal sparsity of the source network; with a budget or a file, the sparsity that follows from it."""
        nominal = self.runs[0].sparsity.get("nominal")
        return float(self.config["sparsity.level"] if nominal is None else nominal)

    @property
    def final(self) -> float:
        """Nominal sparsity at the end of training; `level` if the method keeps it, realised if it is an outcome."""
        final = self.config.get("method.final_sparsity")
        if final is None and self.method in OUTCOMES:
            found = [run.sparsity["realised"] for run in self.runs if run.sparsity.get("realised") is not None]
            return round(sum(found) / len(found), 4) if found else self.level
        return self.level if final is None else float(final)

    def values(self, metric: str) -> dict[int, float]:
        """Return seed -> value of a metric, for the finished runs that have it."""
        found = {seed: run.metrics.get(metric) for seed, run in self.done.items()}
        return {seed: value for seed, value in found.items() if value is not None}


def group_by_experiment(runs: Iterable[Run]) -> dict[str, list[SeedGroup]]:
    """Return experiment -> its groups, ordered by network, data set, method, sparsity option and sparsity."""
    found: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        found.setdefault((run.experiment, run.hash), []).append(run)
    seeds: dict[str, set[int]] = {}
    for (experiment, _), members in found.items():
        seeds.setdefault(experiment, set()).update(run.seed for run in members)
    experiments: dict[str, list[SeedGroup]] = {}
    for (experiment, hash_), members in found.items():
        missing = sorted(seeds[experiment] - {run.seed for run in members})
        members = sorted(members, key=lambda run: run.seed)
        experiments.setdefault(experiment, []).append(SeedGroup(experiment, hash_, members, missing))
    return {name: _ordered(groups) for name, groups in sorted(experiments.items())}


def _ordered(groups: list[SeedGroup]) -> list[SeedGroup]:
    keys = varying_keys([group.config for group in groups])

    def order(group: SeedGroup) -> tuple[Any, ...]:
        if group.kind == "theory":
            return ("", "", group.method, "", (), 0.0, 0.0, group.hash)
        settings = tuple(_sort_key(group.config.get(key)) for key in keys)
        names = group.model, group.dataset, group.method, group.sparsity
        return (*names, settings, group.level, group.final, group.hash)

    return sorted(groups, key=order)


def _sort_key(value: Any) -> tuple[int, float, str]:
    """Sort numbers by size, and before text."""
    return (0, float(value), "") if isinstance(value, int | float) else (1, 0.0, str(value))
