"""Theorems 2.4 and 2.5: weak tickets of fully connected targets, built and counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from ersparse.theory.experiments import Cell, Options, Result, width_search
from ersparse.theory.networks import largest_difference, needed_weights, random_target, stages_of
from ersparse.theory.tables import write_table
from ersparse.theory.weak import NoRepresentative, weak_ticket
from ersparse.theory.widths import weak_copies


def cells(options: Options) -> list[Cell]:
    densities = options.p or options.choose(
        [0.2, 0.7], [0.05, 0.1, 0.2, 0.4, 0.7, 0.95], [0.02, 0.05, 0.1, 0.2, 0.4, 0.7, 0.9, 0.99]
    )
    trials = options.trials or options.choose(100, 500, 2000)
    width, delta = options.choose(4, 8, 16), options.delta
    found: list[Cell] = []
    for depth in options.choose([2], [1, 2, 5], [1, 2, 4, 6]):
        target = {"widths": [width] * (depth + 1), "kernel": 1}
        for p in map(float, densities):
            found.append(width_search.bound_cell(target, p, 1.0, delta, trials))
            if p < 1:
                found.append({"kind": "width", **target, "p": p, "p0": 1.0, "delta": delta, "trials": trials})
            if depth == 2:
                found.append(width_search.bound_cell(target, p, p, delta, trials))
            if depth == 2 and p < 1:
                found.append(width_search.curve_cell(target, p, delta, trials, options.choose(4, 8, 12)))
    for p in map(float, densities):
        found += [_built_cell(p, p0, options) for p0 in sorted({p, 1.0})]
    return found


def _built_cell(p: float, p0: float, options: Options) -> Cell:
    """`largest` is how many possible edges a layer of a source that is drawn whole may have."""
    tickets, largest = options.choose(3, 20, 100), options.choose(1e6, 1e7, 3e7)
    return {"kind": "built", "p": p, "p0": p0, "delta": options.delta, "tickets": tickets, "largest": largest}


def measure(cell: Cell, random: np.random.Generator) -> Result:
    return _build(cell, random) if cell["kind"] == "built" else width_search.measure(cell, random)


def _build(cell: Cell, random: np.random.Generator) -> Result:
    """Random targets built in drawn sources of the bound's width, and how far they are off."""
    errors: list[float] = []
    failures: list[str] = []
    while len(errors) + len(failures) < cell["tickets"]:
        widths = [int(width) for width in random.integers(1, 65, random.integers(2, 8))]
        target = random_target(widths, float(random.uniform(0.05, 1)), random)
        p = [cell["p0"]] + [cell["p"]] * (len(widths) - 1)
        needed = needed_weights(stages_of(target))
        q = weak_copies([int(layer.sum()) for layer in needed], p, cell["delta"])
        if (
            max(a * b * c * d for a, b, c, d in zip(widths[:-1], q[:-1], widths[1:], q[1:], strict=True))
            > cell["largest"]
        ):
            continue
        try:
            ticket = weak_ticket(target, q, p, int(random.integers(2**62)), low=-1)
        except NoRepresentative as error:
            failures.append(str(error))
            continue
        inputs = torch.from_numpy(random.uniform(-1, 1, (256, widths[0])))
        errors.append(largest_difference(target, ticket.network, inputs))
    return {"errors": errors, "failures": failures}


def report(options: Options, results: list[tuple[Cell, Result]], folder: Path) -> dict[str, float]:
    """success.*, bound.*, widths.*, built.* and weak.png."""
    kinds = {
        kind: [pair for pair in results if pair[0]["kind"] == kind] for kind in ("curve", "bound", "width", "built")
    }
    success, bound = width_search.curve_rows(kinds["curve"]), width_search.bound_rows(kinds["bound"])
    widths, built = width_search.width_rows(kinds["width"]), built_rows(kinds["built"])
    for name, rows in (("success", success), ("bound", bound), ("widths", widths), ("built", built)):
        write_table(folder, name, rows)
    _plot(options, success, widths, folder / "weak.png")
    corrected = [row for row in bound if row["bound"] == "corrected"]
    return built_metrics(built) | {
        "corrected bound: largest exact failure / delta": max(row["exact"] for row in corrected) / options.delta,
        "corrected bound: intervals wholly above delta": float(sum(row["low"] > row["delta"] for row in corrected)),
        "printed bound: intervals wholly above delta": float(
            sum(row["low"] > row["delta"] for row in bound if row["bound"] == "printed")
        ),
        "exact inside the 95 % interval, share": float(
            np.mean([row["low"] <= row["exact"] <= row["high"] for row in success])
        ),
    }


def built_rows(results: list[tuple[Cell, Result]]) -> list[dict[str, Any]]:
    return [
        {
            **{key: cell[key] for key in cell if key in ("kernel", "stride", "padded", "identity", "p")},
            "p_0": cell["p0"],
            "tickets": len(result["errors"]),
            "failures": len(result["failures"]),
            "largest_error": max(result["errors"], default=None),
        }
        for cell, result in results
    ]


def built_metrics(built: list[dict[str, Any]]) -> dict[str, float]:
    return {
        "tickets built": float(sum(row["tickets"] for row in built)),
        "draws without a ticket": float(sum(row["failures"] for row in built)),
        "largest |f_T - f_S|": max(row["largest_error"] or 0.0 for row in built),
    }


def _plot(options: Options, success: list[dict[str, Any]], widths: list[dict[str, Any]], path: Path) -> None:
    def left(axes: Any) -> None:
        bounds = {row["p"]: row["bound_multiple"] for row in widths if len(row["widths"].split()) == 3}
        width_search.plot_success(axes, success, bounds)
        axes.set_title(f"Two layers of {success[0]['widths'].split()[0]}, univariate blocks given (p_0 = 1)")

    def right(axes: Any) -> None:
        width_search.plot_widths(axes, widths, lambda row: f"depth {len(row['widths'].split()) - 1}")
        axes.set_title(f"Copies for success {1 - options.delta:g}")

    if success and widths:
        width_search.two_panels(path, left, right)
