"""Theorem 2.6: weak tickets of convolutional targets, built and counted, borders included."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from ersparse.theory.experiments import Cell, Options, Result, width_search
from ersparse.theory.experiments.weak import built_metrics, built_rows
from ersparse.theory.input_copy_layer import with_extra_layer
from ersparse.theory.networks import largest_difference, needed_weights, random_target, stages_of
from ersparse.theory.plots import new_figure, plain_ticks, save, style
from ersparse.theory.tables import write_table
from ersparse.theory.weak import NoRepresentative, weak_ticket
from ersparse.theory.widths import weak_copies

IDENTITIES = ("shift", "padded", "pairs")
IMAGE = 31  # pixels a side


def cells(options: Options) -> list[Cell]:
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
                found.append({"kind": "width", **target, "p": p, "p0": 1.0, "delta": delta, "trials": trials})
    tickets = options.choose(1, 5, 20)
    for kernel in options.choose((3,), (1, 3, 5), (1, 3, 5)):
        for stride, padded, identity in ((s, z, i) for s in (1, 2) for z in (False, True) for i in IDENTITIES):
            found.append(
                {"kind": "built", "kernel": kernel, "stride": stride, "padded": padded, "identity": identity}
                | {"p": 0.3, "p0": 0.3, "delta": delta, "tickets": tickets}
            )
    return found


def measure(cell: Cell, random: np.random.Generator) -> Result:
    return _build(cell, random) if cell["kind"] == "built" else width_search.measure(cell, random)


def _build(cell: Cell, random: np.random.Generator) -> Result:
    """Random targets on images in [-1, 1], built in drawn sources of the bound's width."""
    errors: list[float] = []
    failures: list[str] = []
    for _ in range(cell["tickets"]):
        widths = [int(channels) for channels in random.integers(2, 6, 4)]
        kernels = [cell["kernel"], *random.choice([1, 3], 2).tolist()]
        target = random_target(widths, float(random.uniform(0.3, 1)), random, kernels, cell["stride"], cell["padded"])
        p = [cell["p0"]] + [cell["p"]] * 3
        stages = with_extra_layer(stages_of(target), -1, cell["identity"])
        q = weak_copies([int(layer.sum()) for layer in needed_weights(stages[1:])], p, cell["delta"])
        try:
            ticket = weak_ticket(target, q, p, int(random.integers(2**62)), -1, cell["identity"])
        except NoRepresentative as error:
            failures.append(str(error))
            continue
        images = torch.from_numpy(random.uniform(-1, 1, (8, widths[0], IMAGE, IMAGE)))
        errors.append(largest_difference(target, ticket.network, images))
    return {"errors": errors, "failures": failures}


def report(options: Options, results: list[tuple[Cell, Result]], folder: Path) -> dict[str, float]:
    """bound.*, widths.*, built.* and conv.png."""
    kinds = {kind: [pair for pair in results if pair[0]["kind"] == kind] for kind in ("bound", "width", "built")}
    bound, widths = width_search.bound_rows(kinds["bound"]), width_search.width_rows(kinds["width"])
    built = built_rows(kinds["built"])
    for name, rows in (("bound", bound), ("widths", widths), ("built", built)):
        write_table(folder, name, rows)
    _plot(options, widths, built, folder / "conv.png")
    corrected = [row for row in bound if row["bound"] == "corrected"]
    right = [row for row in built if row["identity"] != "shift" or not row["padded"] or row["kernel"] == 1]
    return built_metrics(right) | {
        "shift at padded borders: smallest |f_T - f_S|": min(
            row["largest_error"] for row in built if row not in right and row["largest_error"] is not None
        ),
        "corrected bound: largest exact failure / delta": max(row["exact"] for row in corrected) / options.delta,
        "corrected bound: intervals wholly above delta": float(sum(row["low"] > row["delta"] for row in corrected)),
    }


def _plot(options: Options, widths: list[dict[str, Any]], built: list[dict[str, Any]], path: Path) -> None:
    """Left: errors of the built tickets by how the inputs are copied. Right: copies over the density."""
    figure, (left, right) = new_figure(2)
    cases = list(dict.fromkeys((row["kernel"], row["stride"], row["padded"]) for row in built))
    for number, identity in enumerate(IDENTITIES):
        mine = {(row["kernel"], row["stride"], row["padded"]): row for row in built if row["identity"] == identity}
        errors = [mine[case]["largest_error"] or np.nan for case in cases]
        places = np.arange(len(cases)) + 0.2 * (number - 1)
        left.plot(places, errors, linestyle="none", label=f"inputs copied by {identity}", **style(number))
    left.axhline(1e-10, color="#000000", linestyle=":", label="1e-10")
    names = [f"{k}×{k}\nstride {s}\n{'padded' if padded else 'valid'}" for k, s, padded in cases]
    left.set_xticks(range(len(cases)), names, fontsize=6)
    left.set(yscale="log", ylabel="max |f_T - f_S| over images in [-1, 1]", title="Tickets built, in float64")
    width_search.plot_widths(right, widths, lambda row: f"{int(row['kernel'] ** 0.5)}×{int(row['kernel'] ** 0.5)}")
    right.set_title(f"Copies for success {1 - options.delta:g}, two layers, p_0 = 1")
    plain_ticks(right.xaxis)
    left.legend(fontsize=8, loc="center left")
    save(figure, path)
