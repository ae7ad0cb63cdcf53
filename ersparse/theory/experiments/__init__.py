"""Experiments on the lemma and the theorems, one module each.

A module has three functions: `cells` lists the configurations, `measure` simulates one of them, and `report` writes
tables and plots of all results.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

Cell = dict[str, Any]  # configuration of one measurement, as plain values; it is the measurement's identity
Result = dict[str, Any]  # outcome of one measurement, as JSON holds it
Measurement = tuple[Cell, Result]


@dataclass(frozen=True)
class ExperimentOptions:
    """Options of an experiment; None leaves the choice to the experiment and the scale.

    Attributes:
        p: densities.
        delta: failure probability.
        epsilon: error tolerance.
        trials: draws for each cell.
        scale: smoke, short or full.
    """

    p: list[float] | None
    delta: float
    epsilon: float
    trials: int | None
    scale: str

    def choose(self, smoke: Any, short: Any, full: Any) -> Any:
        """Return the value that belongs to the scale."""
        return {"smoke": smoke, "short": short, "full": full}[self.scale]


class Experiment(Protocol):
    """Interface of an experiment module."""

    def cells(self, options: ExperimentOptions) -> list[Cell]:
        """Return the configurations to measure."""
        ...

    def measure(self, cell: Cell, random: np.random.Generator) -> Result:
        """Measure one configuration with its own random generator."""
        ...

    def report(self, options: ExperimentOptions, results: list[Measurement], folder: Path) -> dict[str, float]:
        """Write tables and plots into `folder`, and return the main metrics."""
        ...


def experiment(name: str) -> Experiment:
    """Return the experiment module `name`: lemma, weak, conv, strong or lower."""
    module: Any = importlib.import_module(f"ersparse.theory.experiments.{name}")
    return module  # type: ignore[no-any-return]
