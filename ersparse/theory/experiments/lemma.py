"""Lemma 2.1: how many masked uniforms reach a number within epsilon, and the constants of the bound."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

from ersparse.errors import UserError
from ersparse.theory.experiments import Cell, Options, Result
from ersparse.theory.plots import COLORS, new_figure, plain_ticks, points, save, style
from ersparse.theory.subset_sum import nearest
from ersparse.theory.success_probability import wilson
from ersparse.theory.tables import write_table
from ersparse.theory.widths import factor, subset_sum_size, subset_sum_size_printed

TARGETS = (0.25, 0.5, 0.75, 1.0)  # by symmetry of the numbers, -z is as hard as z; 0 is the empty sum
EPSILONS = (0.1, 0.03, 0.01, 0.003, 0.001)
"""Thresholds at which failures are counted; `options.epsilon` is added."""
HARDEST = 3  # the target 1: every other has more subsets around it
BATCHES = 10
Floats = NDArray[np.float64]


def cells(options: Options) -> list[Cell]:
    """Dense numbers for each k, from which every density follows; and masked ones, to check that it does."""
    trials = options.trials or options.choose(200, 4000, 40000)
    if trials < 100:
        raise UserError(f"method.trials={trials}: must be 100 or more for the fit of lemma")
    trials = -(-trials // BATCHES) * BATCHES
    largest = options.choose(14, 26, 32)
    epsilons = sorted({*EPSILONS, options.epsilon})
    found: list[Cell] = [
        {"k": k, "epsilons": epsilons, "delta": options.delta, "trials": trials} for k in range(largest + 1)
    ]
    densities = options.p or options.choose(
        [0.3, 0.9], [0.1, 0.2, 0.4, 0.6, 0.8, 1.0], [0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 1.0]
    )
    for p in densities:
        for n in sorted({max(1, round(k / p)) for k in (6, 10, 14)}):
            found.append({"n": n, "p": float(p), "epsilons": epsilons, "delta": options.delta, "trials": trials})
    return found


def measure(cell: Cell, random: np.random.Generator) -> Result:
    """How often each target is missed by more than each epsilon, in batches: [BATCHES][targets][epsilons]."""
    missed = np.zeros((BATCHES, len(TARGETS), len(cell["epsilons"])), dtype=int)
    for trial in range(cell["trials"]):
        k = cell["k"] if "k" in cell else random.binomial(cell["n"], cell["p"])
        _, errors = nearest(random.uniform(-1, 1, k), TARGETS)
        missed[trial % BATCHES] += errors[:, None] > np.asarray(cell["epsilons"])
    return {"missed": missed.tolist()}


@dataclass(frozen=True)
class Dense:
    """Failures with every number present, at the hardest target.

    Attributes:
        share: [batches, k, epsilons].
    """

    epsilons: Floats
    share: Floats
    trials: int

    @property
    def mean(self) -> Floats:
        return np.asarray(self.share.mean(0))

    def masked(self, n: int, p: float, epsilon: float) -> float:
        """Failure of n numbers that are present with probability p; beyond the largest measured k, as at it."""
        return float(binom.pmf(np.arange(n + 1), n, p) @ self._by_k(n, epsilon))

    def masked_error(self, n: int, p: float, epsilon: float) -> float:
        """The standard error of `masked`."""
        share = self._by_k(n, epsilon)
        return float(np.sqrt(binom.pmf(np.arange(n + 1), n, p) ** 2 @ (share * (1 - share)) / self.trials))

    def _by_k(self, n: int, epsilon: float) -> Floats:
        k = np.minimum(np.arange(n + 1), self.share.shape[1] - 1)
        return np.asarray(self.mean[k, int(np.abs(self.epsilons - epsilon).argmin())])

    def needed(self, p: float, delta: float, epsilon: float) -> int | None:
        """The smallest n that fails with probability delta or less; None where it was not measured."""
        return next((n for n in range(1, int(60 / p) + 1) if self.masked(n, p, epsilon) <= delta), None)


def fit(epsilons: Floats, share: Floats, seen: float) -> tuple[float, float]:
    """(a, b) of share <= a e^(-b k) / epsilon: b by least squares on the logarithm, a lifted above all points.

    Args:
        share: [k, epsilons]; only shares of at least `seen` count, and only those below a half decide b.
    """
    k = np.broadcast_to(np.arange(len(share))[:, None], share.shape)
    with np.errstate(divide="ignore"):
        height = np.log(share) + np.log(epsilons)
    tail = (share >= seen) & (share <= 0.5)
    b = -float(np.polyfit(k[tail], height[tail], 1)[0])
    return float(np.exp((height + b * k)[share >= seen].max())), b


def report(options: Options, results: list[tuple[Cell, Result]], folder: Path) -> dict[str, float]:
    """dense.*, masked.*, sizes.*: failures and sizes; lemma.png shows both beside the bounds."""
    dense = _dense(results)
    seen = 10 / dense.trials
    a, b = fit(dense.epsilons, dense.mean, seen)
    halves = [fit(dense.epsilons, np.delete(dense.share, batch, 0).mean(0), seen) for batch in range(BATCHES)]
    spread = np.sqrt((BATCHES - 1) * np.var(np.asarray(halves), axis=0))  # jackknife over the batches
    write_table(folder, "dense", _dense_rows(dense))
    masked = _masked_rows(dense, results)
    write_table(folder, "masked", masked)
    sizes = _sizes(dense, options, a, b)
    write_table(folder, "sizes", sizes)
    _plot(dense, sizes, options, (a, b), folder / "lemma.png")
    agree = [abs(row["z"]) <= 1.96 for row in masked if row["failures"] >= 10]
    return {
        "a": a,
        "a, standard error": float(spread[0]),
        "b": b,
        "b, standard error": float(spread[1]),
        "masked and dense draws within 1.96 standard errors, share": float(np.mean(agree)),
        "corrected size / measured, largest": max(
            row["corrected"] / row["measured"] for row in sizes if row["measured"]
        ),
    }


def _dense(results: list[tuple[Cell, Result]]) -> Dense:
    cells = [(cell, np.asarray(result["missed"])[:, HARDEST]) for cell, result in results if "k" in cell]
    trials = cells[0][0]["trials"]
    share = np.stack([missed for _, missed in cells], 1) / (trials / BATCHES)
    return Dense(np.asarray(cells[0][0]["epsilons"]), share, trials)


def _dense_rows(dense: Dense) -> list[dict[str, Any]]:
    return [
        {"k": k, **{f"fails at {epsilon:g}": float(share) for epsilon, share in zip(dense.epsilons, row, strict=True)}}
        for k, row in enumerate(dense.mean)
    ]


def _masked_rows(dense: Dense, results: list[tuple[Cell, Result]]) -> list[dict[str, Any]]:
    rows = []
    for cell, result in results:
        if "n" not in cell:
            continue
        for epsilon, missed in zip(cell["epsilons"], np.asarray(result["missed"]).sum(0)[HARDEST], strict=True):
            low, high = wilson(int(missed), cell["trials"])
            expected, measured = dense.masked(cell["n"], cell["p"], epsilon), int(missed) / cell["trials"]
            error = np.hypot(dense.masked_error(cell["n"], cell["p"], epsilon), (high - low) / (2 * 1.96))
            rows.append(
                {"p": cell["p"], "n": cell["n"], "epsilon": epsilon, "trials": cell["trials"], "failures": int(missed)}
                | {"measured": measured, "low": low, "high": high}
                | {"from_dense": expected, "z": float((measured - expected) / error)}
            )
    return rows


def _sizes(dense: Dense, options: Options, a: float, b: float) -> list[dict[str, Any]]:
    """Sizes over the density, with the printed constant C set where the print is safest, at the smallest density."""
    densities = np.concatenate([np.geomspace(0.05, 0.8, 13), [0.9, 0.95, 0.99, 0.999, 1.0]])
    delta, epsilon = options.delta, options.epsilon
    measured = [dense.needed(float(p), delta, epsilon) for p in densities]
    constant = (measured[0] or np.nan) / float(subset_sum_size_printed(densities[0], delta, epsilon))
    return [
        {
            "p": float(p),
            "measured": n,
            "corrected": int(subset_sum_size(p, delta, epsilon, a, b)),
            "printed": float(subset_sum_size_printed(p, delta, epsilon, constant)),
            "C": constant,
            "failure_at_printed": dense.masked(
                max(1, int(np.ceil(subset_sum_size_printed(p, delta, epsilon, constant)))), float(p), epsilon
            ),
            "measured_over_factor": n / float(factor(p)) if n and p < 1 else None,
        }
        for p, n in zip(densities, measured, strict=True)
    ]


def _plot(dense: Dense, sizes: list[dict[str, Any]], options: Options, fitted: tuple[float, float], path: Path) -> None:
    """Left: failures with k numbers present, and the fitted bound. Right: the size needed over the density."""
    figure, (left, right) = new_figure(2)
    (a, b), k = fitted, np.arange(dense.share.shape[1])
    for number, epsilon in enumerate(dense.epsilons):
        share = dense.mean[:, number]
        kept = [place for place in k if share[place] > 0]
        intervals = [wilson(round(share[place] * dense.trials), dense.trials) for place in kept]
        points(left, kept, share[kept], intervals, number, f"ε = {epsilon:g}")
        left.plot(k, np.minimum(1, a * np.exp(-b * k) / epsilon), color=COLORS[number], linewidth=1)
    left.plot([], [], color="#000000", linewidth=1, label=f"a e^(-b k)/ε, a = {a:.3g}, b = {b:.3g}")
    left.set(
        yscale="log",
        ylim=(0.5 / dense.trials, 1.6),
        xlabel="numbers present, k",
        ylabel="share of draws that miss z = 1",
    )
    left.set_title("No subset within ε: measured, 95 % interval, and bound")
    p = [row["p"] for row in sizes]
    right.plot(p, [row["measured"] or np.nan for row in sizes], linestyle="none", label="measured", **style(0))
    right.plot(p, [row["corrected"] for row in sizes], color=COLORS[2], label="corrected, with the fitted a and b")
    right.plot(
        p, [row["printed"] for row in sizes], color=COLORS[1], label=f"Lemma 2.1, printed, C = {sizes[0]['C']:.2g}"
    )
    right.set(xscale="log", yscale="log", xlabel="density p", ylabel="numbers, n", ylim=(1, None))
    right.set_title(f"Numbers for success {1 - options.delta:g} at ε = {options.epsilon:g}")
    for axis in (right.xaxis, right.yaxis):
        plain_ticks(axis)
    left.legend(fontsize=8)
    right.legend(fontsize=8)
    save(figure, path)
