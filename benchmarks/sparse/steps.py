"""Training steps of a whole network."""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.sparse.comparison import STORAGE_DTYPES, Step, print_comparison
from ersparse import models, sparsify
from ersparse.kernels.buffers import Precision
from ersparse.kernels.cost_model import predicted_speedup
from ersparse.kernels.network import SparseNetwork
from ersparse.sparse.layers import prunable_layers
from ersparse.sparse.mask import masks_of
from ersparse.sparse.positions import positions


def training_step(
    network: Callable[[Tensor], Tensor], parameters: Iterable[nn.Parameter], x: Tensor, bfloat16: bool = False
) -> Step:
    """Return a training step of a network on the batch `x`."""
    optimizer = torch.optim.SGD(parameters, 0.01, 0.9, weight_decay=5e-4, fused=True)
    y = torch.arange(len(x)) % 10

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            loss = F.cross_entropy(network(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def layer_flops(network: nn.Module) -> list[tuple[int, float]]:
    """Return for each layer its FLOPs when dense, up to a factor, and its density."""
    uses, masks = positions(network, 3, 32), masks_of(network)
    return [
        (layer.size * uses[layer.name], float(masks[layer.name].float().mean())) for layer in prunable_layers(network)
    ]


def prototype_step(prototype: Any, density: str, level: float, x: Tensor) -> Step:
    """Return a training step of the prototype."""
    network = prototype.Net(prototype.masks(density, 1 - level), len(x))
    optimizer, y = prototype.SGD(network.params), torch.arange(len(x)) % 10

    def step() -> None:
        logits = network.forward(x).requires_grad_()
        F.cross_entropy(logits, y).backward()
        network.backward(logits.grad)
        optimizer.step(network.grads(), 0.01)

    return step


def load_prototype(folder: Path) -> Any:
    """Compile the prototype's kernels into a temporary folder, and import its module."""
    library = Path(tempfile.mkdtemp(prefix="prototype-")) / "kernels.so"
    flags = ("-O3", "-march=native", "-fopenmp", "-shared", "-fPIC")
    subprocess.run(["g++", *flags, "-o", str(library), str(folder / "kernels.cpp")], check=True)
    spec = importlib.util.spec_from_file_location("prototype", folder / "prototype.py")
    assert spec and spec.loader
    module, sys.argv = importlib.util.module_from_spec(spec), [sys.argv[0], str(library)]
    spec.loader.exec_module(module)
    return module


def compare_steps(arguments: argparse.Namespace) -> None:
    """Compare training steps of a network in all cells."""
    x = torch.randn(arguments.batch, 3, 32, 32)
    dense = getattr(models, arguments.model)(10).to(memory_format=torch.channels_last)
    nhwc = x.to(memory_format=torch.channels_last)
    steps = {f"dense {p}": training_step(dense, dense.parameters(), nhwc, p == "bf16") for p in STORAGE_DTYPES}
    prototype = load_prototype(arguments.prototype) if arguments.prototype else None
    for cell in arguments.cells:
        density, level = cell.split(":")
        for name, dtype in STORAGE_DTYPES.items():
            network = getattr(models, arguments.model)(10)
            sparsify(network, density, float(level))
            sparse = SparseNetwork(network, Precision(torch.float32, dtype))
            steps[f"{density} {level} {name}"] = training_step(sparse, sparse.trainable_parameters(), x)
        print(f"{density} {level}: {predicted_speedup(layer_flops(network)):.2f} x by the model")
        if prototype:
            steps[f"{density} {level} prototype"] = prototype_step(prototype, density, float(level), x)
    print_comparison(f"{arguments.model}, a training step of {arguments.batch} images", steps, arguments.rounds)
