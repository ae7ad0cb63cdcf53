"""What each preset measures. A module has `cells`, `measure` one of them, and `report` them as tables and plots."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

Cell = dict[str, Any]  # what is measured, and how often: plain values, the cell's identity
Result = dict[str, Any]  # what came out, as JSON holds it


@dataclass(frozen=True)
class Options:
    """What the command line may say; None leaves a choice to the experiment and the scale.

    Attributes:
        p: densities.
        delta: failure probability.
        epsilon: error.
        trials: draws for each cell.
        scale: smoke, short or full.
    """

    p: list[float] | None
    delta: float
    epsilon: float
    trials: int | None
    scale: str

    def choose(self, smoke: Any, short: Any, full: Any) -> Any:
        return {"smoke": smoke, "short": short, "full": full}[self.scale]


class Experiment(Protocol):
    def cells(self, options: Options) -> list[Cell]: ...

    def measure(self, cell: Cell, random: np.random.Generator) -> Result: ...

    def report(self, options: Options, results: list[tuple[Cell, Result]], folder: Path) -> dict[str, float]:
        """Writes tables and plots into `folder`, and returns the headline figures."""
        ...


def experiment(name: str) -> Experiment:
    """lemma, weak, conv, strong or lower."""
    module: Any = importlib.import_module(f"ersparse.theory.experiments.{name}")
    return module  # type: ignore[no-any-return]
