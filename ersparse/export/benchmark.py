"""What an exported network costs beside the dense one: latency, throughput, size."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from rich.table import Table
from torch import Tensor

from ersparse.export.folded import Folded
from ersparse.export.predictor import computed
from ersparse.export.sparse_file import Images

ONE, MANY = 1, 128  # images, for latency and for throughput
AT_LEAST, SECONDS = 7, 0.5  # how often a batch is predicted, and for how long at least

Network = Callable[[Tensor], Tensor]


def table(network: Folded, images: Images, size: int, dense_size: int) -> Table:
    """Medians of the sparse network, and of the same with dense layers as PyTorch computes them, on the CPU.

    Args:
        size, dense_size: of their files in bytes; that of bfloat16 is half as large.
    """
    made = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("network", "1 image, ms", f"{MANY} images, ms", "images/s", "file, MB"):
        made.add_column(column, justify="left" if column == "network" else "right")
    x = torch.randn(MANY, images.channels, images.side, images.side)
    rows: list[tuple[str, Network, Tensor, int]] = [("sparse", computed(network, images), x, size)]
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        dense = plain(network).to(dtype).to(memory_format=torch.channels_last)
        y = x.to(dtype, memory_format=torch.channels_last)
        bytes_ = dense_size * dtype.itemsize // 4
        rows += [(f"dense {name}", dense, y, bytes_), (f"dense {name}, compiled", torch.compile(dense), y, bytes_)]
    for name, run, x, bytes_ in rows:
        try:
            one, many = (seconds(run, x[:count]) for count in (ONE, MANY))
        except Exception as error:  # whatever a compiler raises
            made.add_row(name, f"{type(error).__name__}", "", "", "")
            continue
        made.add_row(name, f"{1e3 * one:.2f}", f"{1e3 * many:.1f}", f"{MANY / many:,.0f}", f"{bytes_ / 1e6:.3g}")
    return made


def plain(network: Folded) -> Folded:
    """A copy without masks, its removed weights zeros."""
    copy = Folded(network.parts)
    copy.load_state_dict({key: value for key, value in network.state_dict().items() if value.dtype != torch.bool})
    return copy


@torch.no_grad()
def seconds(run: Network, x: Tensor) -> float:
    """The median of a batch, once all is warm and compiled."""
    for _ in range(2):
        run(x)
    found: list[float] = []
    while len(found) < AT_LEAST or sum(found) < SECONDS:
        start = time.perf_counter()
        run(x)
        found.append(time.perf_counter() - start)
    return statistics.median(found)
