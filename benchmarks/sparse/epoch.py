"""Epochs of an MLP on CIFAR-10: sparse execution, masked execution in bfloat16, and SparseLab."""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import time
from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.sparse.comparison import STORAGE_DTYPES
from benchmarks.sparse.memory import mlp
from ersparse import sparsify
from ersparse.kernels.buffers import Precision
from ersparse.kernels.network import SparseNetwork
from ersparse.sparse.mask import enforce

WIDTHS = [3 * 32 * 32, 1024, 1024, 10]
TURN = 50  # steps of an alternative before the next one's turn
Step = Callable[[Tensor, Tensor], None]


def step_on(
    network: Callable[[Tensor], Tensor], parameters: Iterable[nn.Parameter], masked: nn.Module | None = None
) -> Step:
    """Return a training step; with a masked network, in bfloat16 and with its removed weights set to zero."""
    optimizer = torch.optim.SGD(parameters, 0.01, 0.9, weight_decay=5e-4, fused=True)

    def step(x: Tensor, y: Tensor) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=masked is not None):
            loss = F.cross_entropy(network(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if masked is not None:
            enforce(masked)

    return step


def alternatives(density: float, others: bool) -> dict[str, Step]:
    """Return a step of each alternative; the output layer is as sparse as the others, but in SparseLab dense."""
    steps: dict[str, Step] = {}
    for name, dtype in STORAGE_DTYPES.items():
        network = mlp(WIDTHS)
        sparsify(network, "uniform", 1 - density)
        sparse = SparseNetwork(network, Precision(torch.float32, dtype))
        steps[f"sparse {name}"] = step_on(sparse, sparse.trainable_parameters())
    masked = mlp(WIDTHS)
    sparsify(masked, "uniform", 1 - density)
    steps["masked bf16"] = step_on(masked, masked.parameters(), masked)
    if others and importlib.util.find_spec("sparselab"):
        from sparselab import SparseLinear

        network = mlp(WIDTHS, lambda n, m: SparseLinear(n, m, sparsity=1 - density))
        steps["SparseLab f32"] = step_on(network, network.parameters())
    return steps


def epoch_seconds(steps: dict[str, Step], x: Tensor, y: Tensor, batch: int) -> dict[str, float]:
    """Return the time of an epoch of each alternative, which take turns of `TURN` steps."""
    seconds = dict.fromkeys(steps, 0.0)
    batches = torch.randperm(len(x)).split(batch)
    for begin in range(0, len(batches), TURN):
        for name, step in steps.items():
            start = time.perf_counter()
            for rows in batches[begin : begin + TURN]:
                step(x[rows], y[rows])
            seconds[name] += time.perf_counter() - start
    return seconds


def compare_epochs(arguments: argparse.Namespace) -> None:
    """Print the median seconds per epoch, over --rounds epochs, of each density."""
    data = np.load(arguments.data / "cifar10.npz")
    images, labels = (data[key] for key in ("x_train", "y_train"))
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float().div_(255).sub_(0.5).div_(0.25).contiguous()
    y = torch.from_numpy(labels).long()
    for density in arguments.density:
        steps = alternatives(density, arguments.others)
        for step in steps.values():
            step(x[: arguments.batch], y[: arguments.batch])
        epochs = [epoch_seconds(steps, x, y, arguments.batch) for _ in range(arguments.rounds)]
        title = f"{'-'.join(map(str, WIDTHS))}, an epoch of {len(x)} images in batches of {arguments.batch}"
        print(f"{title}, density {density:g}")
        for name in steps:
            print(f"  {name:28}{statistics.median(epoch[name] for epoch in epochs):9.2f} s", flush=True)
