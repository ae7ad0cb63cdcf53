"""Benchmark of an exported network against the dense one: latency, throughput and file size."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from rich.table import Table
from torch import Tensor

from ersparse.export.folded import FoldedNetwork
from ersparse.export.predictor import sparse_forward
from ersparse.export.ranges import Ranges
from ersparse.export.sparse_file import InputSpec

LATENCY_BATCH, THROUGHPUT_BATCH = 1, 128  # images
MIN_REPETITIONS, MIN_SECONDS = 7, 0.5  # of each batch; both are minima

Network = Callable[[Tensor], Tensor]


def benchmark_table(
    network: FoldedNetwork, inputs: InputSpec, size: int, dense_size: int, ranges: Ranges | None = None
) -> Table:
    """Time the network on the CPU by the sparse kernels and by PyTorch's dense layers, and return the medians.

    Args:
        network: with masks attached.
        inputs: the images that it expects.
        size: the size of the sparse file in bytes.
        dense_size: the size of the dense network in float32, in bytes.
        ranges: of the network's tensors, to time prediction in 8 bits too.
    """
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("network", "1 image, ms", f"{THROUGHPUT_BATCH} images, ms", "images/s", "file, MB"):
        table.add_column(column, justify="left" if column == "network" else "right")
    x = torch.randn(THROUGHPUT_BATCH, inputs.channels, inputs.side, inputs.side)
    candidates: list[tuple[str, Network, Tensor, int]] = [
        ("sparse", sparse_forward(network, inputs), x, size),
        ("sparse, bfloat16 storage", sparse_forward(network, inputs, torch.bfloat16), x, size),
    ]
    if ranges:
        candidates.append(("sparse, int8", sparse_forward(network, inputs, torch.int8, ranges), x, size))
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        dense = without_masks(network).to(dtype).to(memory_format=torch.channels_last)
        y = x.to(dtype, memory_format=torch.channels_last)
        file_size = dense_size * dtype.itemsize // 4
        candidates.append((f"dense {name}", dense, y, file_size))
        candidates.append((f"dense {name}, compiled", torch.compile(dense), y, file_size))
    for candidate in candidates:
        table.add_row(*_row(*candidate))
    return table


def _row(name: str, network: Network, x: Tensor, file_size: int) -> list[str]:
    try:
        latency, batch = (median_seconds(network, x[:count]) for count in (LATENCY_BATCH, THROUGHPUT_BATCH))
    except Exception as error:  # torch.compile may raise anything
        return [name, type(error).__name__, "", "", ""]
    throughput = THROUGHPUT_BATCH / batch
    return [name, f"{1e3 * latency:.2f}", f"{1e3 * batch:.1f}", f"{throughput:,.0f}", f"{file_size / 1e6:.3g}"]


def without_masks(network: FoldedNetwork) -> FoldedNetwork:
    """Return a copy without masks, whose removed weights are zeros."""
    copy = FoldedNetwork(network.steps)
    copy.load_state_dict({key: value for key, value in network.state_dict().items() if value.dtype != torch.bool})
    return copy


@torch.no_grad()
def median_seconds(network: Network, x: Tensor) -> float:
    """Return the median time of a batch, after two passes that compile and fill caches."""
    for _ in range(2):
        network(x)
    seconds: list[float] = []
    while len(seconds) < MIN_REPETITIONS or sum(seconds) < MIN_SECONDS:
        start = time.perf_counter()
        network(x)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)
