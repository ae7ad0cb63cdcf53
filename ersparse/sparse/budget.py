"""The budget of a sparse network: whether its masks keep more weights than the nominal sparsity allows."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor

from ersparse.sparse.density import expected_density
from ersparse.sparse.source import Source

DEVIATIONS = 5  # of the drawing: chance exceeds this many in one network of three million
RELATIVE = 0.01  # of the weights asked for; a smaller excess is not worth a warning


def budget_excess(source: Source, masks: Mapping[str, Tensor]) -> str | None:
    """Return one line about a missed budget, or None if the masks meet it.

    The budget is missed if the masks keep more weights than the nominal density allows, by more than the tolerance:
    the largest of five standard deviations of independent draws at the layer densities, one percent of the nominal
    count, and one weight for each layer (the rounding of exact sampling). Flow repair is the usual reason, since one
    edge for each channel can need more weights than the density allows. Masks that keep fewer weights meet the budget.

    Args:
        source: the source network.
        masks: its masks after repair, by layer name; empty for a dense network.
    """
    total = sum(layer.size for layer in source.layers)
    asked, kept = source.nominal * total, sum(int(mask.sum()) for mask in masks.values())
    pairs = list(zip(source.layers, source.densities, strict=True))
    deviation = math.sqrt(sum(layer.size * p * (1 - p) for layer, p in pairs))
    tolerance = max(DEVIATIONS * deviation, RELATIVE * asked, len(pairs))
    if kept - asked <= tolerance:
        return None
    if expected_density(source.layers, source.densities) * total - asked > tolerance:
        reason = "since the layer densities add up to more"
    else:
        flow = source.flow if isinstance(source.flow, str) else getattr(source.flow, "__name__", "the repair given")
        reason = f"since flow={flow} gives every channel an edge; a lower level or flow=none meets the budget"
    return (
        f"nominal sparsity {1 - source.nominal:.6g}, realised {1 - kept / total:.6g}: keeps {kept:,} weights, not "
        f"{asked:,.0f} ({kept / asked:.3g} times), {reason}"
    )
