"""Experiment on Lemma 2.1: failure probability of random subset sums, and the constants a and b of its bound."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ersparse.errors import UserError
from ersparse.theory.experiments import Cell, ExperimentOptions, Measurement, Result
from ersparse.theory.experiments.lemma_fit import DenseFailures, fit_constants, jackknife
from ersparse.theory.plots import COLORS, new_figure, plot_intervals, save_figure, series_style, use_decimal_ticks
from ersparse.theory.subset_sum import nearest
from ersparse.theory.success_probability import wilson_interval
from ersparse.theory.tables import write_table
from ersparse.theory.widths import subset_sum_size, subset_sum_size_printed, width_factor

TARGETS = (0.25, 0.5, 0.75, 1.0)  # the numbers are symmetric, so -z is as hard as z; 0 is the empty sum
HARDEST = 3  # index of target 1; every other target has more subset sums near it
EPSILONS = (0.1, 0.03, 0.01, 0.003, 0.001)
"""Error tolerances at which failures are counted; `options.epsilon` is added."""
BATCHES = 10  # batches of the jackknife
Z_95 = 1.96  # standard errors of a 95 % confidence interval


def cells(options: ExperimentOptions) -> list[Cell]:
    """Return cells with k numbers present, and cells with n numbers that are masked at density p.

    The failure probability at every density follows from the first; the second verify this.
    """
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
    """Count the draws in which no subset is within epsilon of a target: [BATCHES][targets][epsilons]."""
    missed = np.zeros((BATCHES, len(TARGETS), len(cell["epsilons"])), dtype=int)
    for trial in range(cell["trials"]):
        k = cell["k"] if "k" in cell else random.binomial(cell["n"], cell["p"])
        _, errors = nearest(random.uniform(-1, 1, k), TARGETS)
        missed[trial % BATCHES] += errors[:, None] > np.asarray(cell["epsilons"])
    return {"missed": missed.tolist()}


def report(options: ExperimentOptions, results: list[Measurement], folder: Path) -> dict[str, float]:
    """Write dense.*, masked.* (failure rates), sizes.* (required sizes) and lemma.png, and return the main metrics."""
    dense = _dense(results)
    resolution = 10 / dense.trials
    a, b = fit_constants(dense.epsilons, dense.mean, resolution)
    standard_errors = jackknife(dense, resolution)
    masked, sizes = _masked_rows(dense, results), _size_rows(dense, options, a, b)
    for name, rows in (("dense", _dense_rows(dense)), ("masked", masked), ("sizes", sizes)):
        write_table(folder, name, rows)
    _plot(dense, sizes, options, (a, b), folder / "lemma.png")
    agree = [abs(row["z"]) <= Z_95 for row in masked if row["failures"] >= 10]
    return {
        "a": a,
        "a, standard error": float(standard_errors[0]),
        "b": b,
        "b, standard error": float(standard_errors[1]),
        "masked and dense draws within 1.96 standard errors, share": float(np.mean(agree)),
        "corrected size / measured, largest": max(
            row["corrected"] / row["measured"] for row in sizes if row["measured"]
        ),
    }


def _dense(results: list[Measurement]) -> DenseFailures:
    cells = [(cell, np.asarray(result["missed"])[:, HARDEST]) for cell, result in results if "k" in cell]
    trials = cells[0][0]["trials"]
    share = np.stack([missed for _, missed in cells], 1) / (trials / BATCHES)
    return DenseFailures(np.asarray(cells[0][0]["epsilons"]), share, trials)


def _dense_rows(dense: DenseFailures) -> list[dict[str, Any]]:
    return [
        {"k": k, **{f"fails at {epsilon:g}": float(share) for epsilon, share in zip(dense.epsilons, row, strict=True)}}
        for k, row in enumerate(dense.mean)
    ]


def _masked_rows(dense: DenseFailures, results: list[Measurement]) -> list[dict[str, Any]]:
    rows = []
    for cell, result in results:
        if "n" not in cell:
            continue
        for epsilon, missed in zip(cell["epsilons"], np.asarray(result["missed"]).sum(0)[HARDEST], strict=True):
            low, high = wilson_interval(int(missed), cell["trials"])
            expected, measured = dense.masked(cell["n"], cell["p"], epsilon), int(missed) / cell["trials"]
            error = np.hypot(dense.masked_error(cell["n"], cell["p"], epsilon), (high - low) / (2 * Z_95))
            rows.append(
                {"p": cell["p"], "n": cell["n"], "epsilon": epsilon, "trials": cell["trials"], "failures": int(missed)}
                | {"measured": measured, "low": low, "high": high}
                | {"from_dense": expected, "z": float((measured - expected) / error)}
            )
    return rows


def _size_rows(dense: DenseFailures, options: ExperimentOptions, a: float, b: float) -> list[dict[str, Any]]:
    """Return the sizes over the density; the printed constant C is fitted at the smallest density."""
    densities = np.concatenate([np.geomspace(0.05, 0.8, 13), [0.9, 0.95, 0.99, 0.999, 1.0]])
    delta, epsilon = options.delta, options.epsilon
    measured = [dense.required_size(float(p), delta, epsilon) for p in densities]
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
            "measured_over_factor": n / float(width_factor(p)) if n and p < 1 else None,
        }
        for p, n in zip(densities, measured, strict=True)
    ]


def _plot(
    dense: DenseFailures,
    sizes: list[dict[str, Any]],
    options: ExperimentOptions,
    fitted: tuple[float, float],
    path: Path,
) -> None:
    """Plot the failure rates and the fitted bound on the left, and the required sizes over the density on the right."""
    figure, (left, right) = new_figure(2)
    _plot_failures(left, dense, *fitted)
    _plot_sizes(right, sizes)
    right.set_title(f"Numbers for success {1 - options.delta:g} at ε = {options.epsilon:g}")
    save_figure(figure, path)


def _plot_failures(axes: Any, dense: DenseFailures, a: float, b: float) -> None:
    k = np.arange(dense.share.shape[1])
    for number, epsilon in enumerate(dense.epsilons):
        share = dense.mean[:, number]
        failing = [index for index in k if share[index] > 0]
        intervals = [wilson_interval(round(share[index] * dense.trials), dense.trials) for index in failing]
        plot_intervals(axes, failing, share[failing], intervals, number, f"ε = {epsilon:g}")
        axes.plot(k, np.minimum(1, a * np.exp(-b * k) / epsilon), color=COLORS[number], linewidth=1)
    axes.plot([], [], color="#000000", linewidth=1, label=f"a e^(-b k)/ε, a = {a:.3g}, b = {b:.3g}")
    axes.set(yscale="log", ylim=(0.5 / dense.trials, 1.6))
    axes.set(xlabel="numbers present, k", ylabel="share of draws that miss z = 1")
    axes.set_title("No subset within ε: measured, 95 % interval, and bound")
    axes.legend(fontsize=8)


def _plot_sizes(axes: Any, sizes: list[dict[str, Any]]) -> None:
    p, constant = [row["p"] for row in sizes], sizes[0]["C"]
    measured = [row["measured"] or np.nan for row in sizes]
    axes.plot(p, measured, linestyle="none", label="measured", **series_style(0))
    axes.plot(p, [row["corrected"] for row in sizes], color=COLORS[2], label="corrected, with the fitted a and b")
    axes.plot(p, [row["printed"] for row in sizes], color=COLORS[1], label=f"Lemma 2.1, printed, C = {constant:.2g}")
    axes.set(xscale="log", yscale="log", xlabel="density p", ylabel="numbers, n", ylim=(1, None))
    use_decimal_ticks(axes.xaxis, axes.yaxis)
    axes.legend(fontsize=8)
