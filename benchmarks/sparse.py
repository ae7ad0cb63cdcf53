"""A training step over kept weights alone beside dense ones, in one run; ratios are to the better dense precision.

    python -m benchmarks.sparse [--model vgg16] [--batch 128] [--threads 2] [--rounds 5] [--cells uniform:0.99 ...]

The dense network (channels-last, float32 and bfloat16) does what masked execution does, without the masks. All take
turns in this process, and the figures are medians.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ersparse import models, sparsify
from ersparse.kernels.buffers import Number
from ersparse.kernels.network import SparseNetwork

CELLS = ["uniform:0.8", "uniform:0.99", "uniform:0.999", "erk:0.99"]


def step_of(
    network: Callable[[Tensor], Tensor], trained: Iterable[nn.Parameter], x: Tensor, bf16: bool = False
) -> Callable[[], None]:
    optimizer = torch.optim.SGD(trained, 0.01, 0.9, weight_decay=5e-4, fused=True)
    y = torch.arange(len(x)) % 10

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = F.cross_entropy(network(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def steps(model: str, x: Tensor, cells: list[str]) -> dict[str, Callable[[], None]]:
    dense = getattr(models, model)(10).to(memory_format=torch.channels_last)
    nhwc = x.to(memory_format=torch.channels_last)
    found = {f"dense {p}": step_of(dense, dense.parameters(), nhwc, p == "bf16") for p in ("f32", "bf16")}
    for cell in cells:
        density, level = cell.split(":")
        for name, stored in (("f32", torch.float32), ("bf16", torch.bfloat16)):
            network = getattr(models, model)(10)
            sparsify(network, density, float(level))
            sparse = SparseNetwork(network, Number(torch.float32, stored))
            found[f"{density} {level} {name}"] = step_of(sparse, sparse.trained(), x)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vgg16")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cells", nargs="+", default=CELLS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    runs = steps(arguments.model, torch.randn(arguments.batch, 3, 32, 32), arguments.cells)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(arguments.rounds + 1):  # the first round warms up
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if number:
                seconds[name].append(time.perf_counter() - start)
    median = {name: statistics.median(found) for name, found in seconds.items()}
    better = min(median["dense f32"], median["dense bf16"])
    for name, found in median.items():
        print(f"{name:24}{1e3 * found:8.1f} ms  {better / found:6.2f} x")


if __name__ == "__main__":
    main()
