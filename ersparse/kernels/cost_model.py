"""Cost model of a training step, by which `trainer.execution=auto` chooses between sparse and masked execution.

The time of a masked step is proportional to the FLOPs of all weights. The time of a sparse step is that of the kept
weights' FLOPs, at a lower throughput, plus a constant for the operations between the layers, which do not get cheaper
with sparsity. `python -m benchmarks.sparse steps` prints the prediction beside the measurement.
"""

from __future__ import annotations

from collections.abc import Iterable

DENSE_TO_SPARSE_THROUGHPUT = 1.8  # FLOP/s of dense kernels relative to sparse kernels (measured, docs/performance.md)
OVERHEAD_FRACTION = 0.05  # normalisation, activations and pooling of a sparse step, relative to a whole masked step
WORTHWHILE_SPEEDUP = 2.0  # required by `auto`; the margin allows for other processors and networks than the measured


def predicted_speedup(layers: Iterable[tuple[int, float]]) -> float:
    """Return the predicted time of a masked training step divided by that of a sparse one.

    Args:
        layers: for each layer its FLOPs when dense, in any unit, and its density in [0, 1].
    """
    dense = sparse = 0.0
    for flops, density in layers:
        dense, sparse = dense + flops, sparse + flops * density
    return 1 / (DENSE_TO_SPARSE_THROUGHPUT * sparse / dense + OVERHEAD_FRACTION)
