"""Peak memory of a training step. Each alternative is a process of its own.

A process notes its resident memory once it has imported everything, builds the network, trains two steps, resets the
peak that the kernel has recorded, and trains two more. The difference between peak and note is what training holds: the
network with its masks, gradients, optimizer state and activations. Building a network needs its dense weights once,
before training; they are not part of the figure.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.util
import itertools
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.sparse.comparison import STORAGE_DTYPES, Step
from benchmarks.sparse.steps import training_step
from ersparse import models, sparsify
from ersparse.kernels.buffers import Precision
from ersparse.kernels.network import SparseNetwork
from ersparse.sparse.mask import enforce

NETWORKS = ("vgg16", "mlp")
WIDTH = 4096  # of the two hidden layers of the MLP


def mlp(widths: list[int], linear: Callable[[int, int], nn.Module] = nn.Linear) -> nn.Sequential:
    """Return a network of linear layers and ReLUs; `linear` builds its hidden layers."""
    layers: list[nn.Module] = [nn.Flatten()]
    for n_in, n_out in itertools.pairwise(widths[:-1]):
        layers += [linear(n_in, n_out), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-2], widths[-1]))


def build(network: str) -> nn.Module:
    return models.vgg16(10) if network == "vgg16" else mlp([3 * 32 * 32, WIDTH, WIDTH, 10])


def masked_step(network: nn.Module, x: Tensor, bfloat16: bool) -> Step:
    """Return a step of masked execution, which sets removed weights to zero after each update."""
    step = training_step(network, network.parameters(), x, bfloat16)

    def masked() -> None:
        step()
        enforce(network)

    return masked


def step_of(network: str, how: str, sparsity: float, images: int) -> Step:
    """Return a training step of one alternative: "sparse f32", "masked bf16", ..., or "SparseLab"."""
    x = torch.randn(images, 3, 32, 32)
    if how == "SparseLab":
        from sparselab import SparseLinear

        layers = mlp([3 * 32 * 32, WIDTH, WIDTH, 10], lambda n, m: SparseLinear(n, m, sparsity=sparsity))
        return training_step(layers, layers.parameters(), x)
    module = build(network)
    sparsify(module, "uniform", sparsity)
    execution, storage = how.split()
    if execution == "masked":
        return masked_step(module, x, storage == "bf16")
    sparse = SparseNetwork(module, Precision(torch.float32, STORAGE_DTYPES[storage]))
    sparse.release()
    return training_step(sparse, sparse.trainable_parameters(), x)


def resident(key: str = "VmRSS") -> int:
    """Return the resident memory of this process, or its peak ("VmHWM"), in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) * 1024


def return_freed() -> None:
    """Have the C library return freed memory to the system, so that it does not count."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim:
        trim(0)


def measure(network: str, how: str, sparsity: float, images: int, threads: int) -> int:
    """Return the peak memory of two steps in bytes, above that before the network was built."""
    torch.set_num_threads(threads)
    training_step(tiny := nn.Sequential(nn.Flatten(), nn.Linear(12, 10)), tiny.parameters(), torch.randn(10, 3, 2, 2))()
    start = resident()
    step = step_of(network, how, sparsity, images)
    step(), step()
    return_freed()
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak (proc(5))
    step(), step()
    return resident("VmHWM") - start


def compare_memory(arguments: argparse.Namespace) -> None:
    """Print the peak memory of all alternatives, and its fraction of that of masked execution in bfloat16."""
    for network in NETWORKS:
        ways = ["masked bf16", "masked f32", *(f"sparse {p}" for p in STORAGE_DTYPES)]
        if network == "mlp" and arguments.others and importlib.util.find_spec("sparselab"):
            ways.append("SparseLab")
        print(f"{network}, a training step of {arguments.batch} images, sparsity {arguments.sparsity:g}")
        peaks: dict[str, int] = {}
        for how in ways:
            values = json.dumps([network, how, arguments.sparsity, arguments.batch, arguments.threads])
            command = [sys.executable, "-m", "benchmarks.sparse.memory", values]
            peaks[how] = int(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.split()[-1])
            print(f"  {how:28}{peaks[how] / 1e6:9.1f} MB {peaks[how] / peaks[ways[0]]:7.3f}", flush=True)


if __name__ == "__main__":
    print(measure(*json.loads(sys.argv[1])))
