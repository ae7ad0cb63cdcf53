"""Aligned plain-text tables of `ersparse density`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # imports torch
    from ersparse.report.analysis.flow import FlowCounts
    from ersparse.sparse.layers import Layer


def density_table(
    layers: Sequence[Layer], densities: Mapping[str, Sequence[float]], expected: Sequence[float]
) -> Iterator[str]:
    """Yield the lines of a table of layer densities: one line per layer, one column per option.

    Args:
        layers: prunable layers of the network.
        densities: option -> density of each layer.
        expected: expected density of the whole network, for each option.
    """
    yield f"{'layer':36}{'size':>11}" + "".join(f"{name:>12}" for name in densities)
    for number, layer in enumerate(layers):
        cells = "".join(f"{values[number]:>12.5g}" for values in densities.values())
        yield f"{layer.name:36}{layer.size:>11,}{cells}"
    yield f"{'expected':36}{'':>11}" + "".join(f"{value:>12.5g}" for value in expected)


def flow_table(
    drawn: Mapping[str, Sequence[FlowCounts]], repaired: Mapping[str, Sequence[FlowCounts]], repair: str
) -> Iterator[str]:
    """Yield the lines of a table of flow: one line per option and sparsity.

    Args:
        drawn: option -> counts without repair, for each sparsity.
        repaired: the same networks with repair.
        repair: value of `sparsity.flow`.
    """
    yield f"{'':12}{'':>10}{'channels without an edge':>28}{'kept weights on a path':>26}{'density':>12}"
    yield f"{'':12}{'sparsity':>10}{'in':>14}{'out':>14}{'as drawn':>14}{repair:>12}{repair:>12}"
    for option, flows in drawn.items():
        for before, after in zip(flows, repaired[option], strict=True):
            yield (
                f"{option:12}{before.sparsity:>10.5g}{before.zero_in:>14,}{before.zero_out:>14,}"
                f"{before.on_paths:>14.4f}{after.on_paths:>12.4f}{after.kept:>12.5g}"
            )
