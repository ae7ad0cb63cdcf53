"""Whether sparse execution pays: the time of a step by a model that `python -m benchmarks.sparse steps` calibrates.

A masked step takes the operations of all weights. A sparse one takes those of the kept weights, at a lower rate, and
what lies between the layers, which no sparsity makes less.
"""

from __future__ import annotations

from collections.abc import Iterable

RATE = 2.3  # operations a second of dense layers over those of kept weights
REST = 0.05  # of a masked step: normalisation, activations, pooling, in the sparse one
WORTHWHILE_SPEEDUP = 2.0  # how many times faster it has to be by the model, which knows one processor and one network


def predicted_speedup(layers: Iterable[tuple[int, float]]) -> float:
    """How many times faster a sparse training step is than a masked one.

    Args:
        layers: of each the operations if all its weights were kept, in any unit, and its density.
    """
    dense = sparse = 0.0
    for operations, density in layers:
        dense, sparse = dense + operations, sparse + operations * density
    return 1 / (RATE * sparse / dense + REST)
