"""Experiment on Theorem 2.6: weak tickets of convolutional targets, constructed and counted, with padded borders."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from ersparse.theory.experiments import Cell, ExperimentOptions, Measurement, Result, width_search
from ersparse.theory.experiments import width_report as reporting
from ersparse.theory.experiments.built_tickets import built_metrics, built_rows, construct
from ersparse.theory.input_copy_layer import with_input_copy_layer
from ersparse.theory.networks import affine_layers, nonzero_weights, random_target
from ersparse.theory.plots import new_figure, save_figure, series_style
from ersparse.theory.tables import write_table
from ersparse.theory.widths import weak_copies

IDENTITIES = ("shift", "padded", "pairs")
IMAGE_SIZE = 31  # height and width of the images in pixels


def cells(options: ExperimentOptions) -> list[Cell]:
    """Return cells that count successes at the bounds, search for widths, and construct tickets."""
    densities = options.p or options.choose(
        [0.3], [0.05, 0.1, 0.2, 0.4, 0.7, 0.95], [0.02, 0.05, 0.1, 0.2, 0.4, 0.7, 0.95]
    )
    trials = options.trials or options.choose(100, 500, 2000)
    channels, delta = options.choose(2, 4, 8), options.delta
    found: list[Cell] = []
    for kernel in (1, 3, 5):
        target = {"widths": [channels] * 3, "kernel": kernel**2}
        for p in map(float, densities):
            found.append(width_search.bound_cell(target, p, 1.0, delta, trials))
            found.append(width_search.bound_cell(target, p, p, delta, trials))
            if p < 1:
                found.append(width_search.width_cell(target, p, delta, trials))
    kernels, tickets = options.choose((3,), (1, 3, 5), (1, 3, 5)), options.choose(1, 5, 20)
    for kernel, stride, padded, identity in product(kernels, (1, 2), (False, True), IDENTITIES):
        found.append(
            {"kind": "built", "kernel": kernel, "stride": stride, "padded": padded, "identity": identity}
            | {"p": 0.3, "p0": 0.3, "delta": delta, "tickets": tickets}
        )
    return found


def measure(cell: Cell, random: np.random.Generator) -> Result:
    """Construct tickets or, for cells of another kind, simulate success probabilities."""
    return _construct(cell, random) if cell["kind"] == "built" else width_search.measure(cell, random)


def _construct(cell: Cell, random: np.random.Generator) -> Result:
    """Construct random targets on images in [-1, 1] in drawn source networks of the bound's width."""
    result: Result = {"errors": [], "failures": []}
    for _ in range(cell["tickets"]):
        channels = [int(channels) for channels in random.integers(2, 6, 4)]
        kernels = [cell["kernel"], *random.choice([1, 3], 2).tolist()]
        density = float(random.uniform(0.3, 1))
        target = random_target(channels, density, random, kernels, cell["stride"], cell["padded"])
        p = [cell["p0"]] + [cell["p"]] * 3
        layers = with_input_copy_layer(affine_layers(target), -1, cell["identity"])
        q = weak_copies(nonzero_weights(layers[1:]), p, cell["delta"])
        construct(result, target, q, p, (8, channels[0], IMAGE_SIZE, IMAGE_SIZE), random, cell["identity"])
    return result


def report(options: ExperimentOptions, results: list[Measurement], folder: Path) -> dict[str, float]:
    """Write bound.*, widths.*, built.* and conv.png, and return the main metrics."""
    bound = reporting.bound_rows(reporting.of_kind(results, "bound"))
    widths = reporting.width_rows(reporting.of_kind(results, "width"))
    built = built_rows(reporting.of_kind(results, "built"))
    for name, rows in (("bound", bound), ("widths", widths), ("built", built)):
        write_table(folder, name, rows)
    _plot(options, widths, built, folder / "conv.png")
    exact = [row for row in built if row["identity"] != "shift" or not row["padded"] or row["kernel"] == 1]
    inexact_errors = [row["largest_error"] for row in built if row not in exact and row["largest_error"] is not None]
    return {
        **built_metrics(exact),
        "shift at padded borders: smallest |f_T - f_S|": min(inexact_errors),
        **reporting.corrected_bound_metrics(bound, options.delta),
    }


def _plot(options: ExperimentOptions, widths: list[dict[str, Any]], built: list[dict[str, Any]], path: Path) -> None:
    """Plot the errors of the tickets by input copy on the left, and the copies over the density on the right."""
    figure, (left, right) = new_figure(2)
    _plot_errors(left, built)
    reporting.plot_widths(right, widths, lambda row: f"{int(row['kernel'] ** 0.5)}×{int(row['kernel'] ** 0.5)}")
    right.set_title(f"Copies for success {1 - options.delta:g}, two layers, p_0 = 1")
    save_figure(figure, path)


def _plot_errors(axes: Any, built: list[dict[str, Any]]) -> None:
    cases = list(dict.fromkeys((row["kernel"], row["stride"], row["padded"]) for row in built))
    for number, identity in enumerate(IDENTITIES):
        rows = {(row["kernel"], row["stride"], row["padded"]): row for row in built if row["identity"] == identity}
        errors = [rows[case]["largest_error"] or np.nan for case in cases]
        x = np.arange(len(cases)) + 0.2 * (number - 1)
        axes.plot(x, errors, linestyle="none", label=f"inputs copied by {identity}", **series_style(number))
    axes.axhline(1e-10, color="#000000", linestyle=":", label="1e-10")
    names = [f"{k}×{k}\nstride {s}\n{'padded' if padded else 'valid'}" for k, s, padded in cases]
    axes.set_xticks(range(len(cases)), names, fontsize=6)
    axes.set(yscale="log", ylabel="max |f_T - f_S| over images in [-1, 1]", title="Tickets built, in float64")
    axes.legend(fontsize=8, loc="center left")
