"""Construction of weak tickets for random targets, shared by the experiments weak and conv."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from ersparse.theory.experiments import Measurement, Result
from ersparse.theory.input_copy_layer import InputCopy
from ersparse.theory.networks import max_output_difference
from ersparse.theory.weak import MissingRepresentative, weak_ticket


def construct(
    result: Result,
    target: nn.Module,
    copies: Sequence[int],
    p: Sequence[float],
    batch_shape: Sequence[int],
    random: np.random.Generator,
    identity: InputCopy = "auto",
) -> None:
    """Construct one ticket and append its largest output difference, or the failure, to `result`.

    Args:
        result: lists "errors" and "failures".
        target: target network.
        copies: q_0..q_L.
        p: densities p_0..p_L.
        batch_shape: shape of the batch of inputs from [-1, 1] on which both networks are compared.
        random: generator of the ticket's seed and of the inputs.
        identity: how layer 0 copies the inputs, see `with_input_copy_layer`.
    """
    try:
        ticket = weak_ticket(target, copies, p, int(random.integers(2**62)), -1, identity)
    except MissingRepresentative as error:
        result["failures"].append(str(error))
        return
    inputs = torch.from_numpy(random.uniform(-1, 1, tuple(batch_shape)))
    result["errors"].append(max_output_difference(target, ticket.network, inputs))


def built_rows(results: Sequence[Measurement]) -> list[dict[str, Any]]:
    """Return a row for each cell: number of tickets, failed draws and the largest output difference."""
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


def built_metrics(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return the totals over the rows of `built_rows`."""
    return {
        "tickets built": float(sum(row["tickets"] for row in rows)),
        "draws without a ticket": float(sum(row["failures"] for row in rows)),
        "largest |f_T - f_S|": max(row["largest_error"] or 0.0 for row in rows),
    }
