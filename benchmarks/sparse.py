"""Sparse execution on the CPU, compared with dense layers and with other sparse implementations.

    python -m benchmarks.sparse steps [--model vgg16] [--cells uniform:0.99 ...] [--prototype FOLDER]
    python -m benchmarks.sparse convolutions [--density 0.1 0.01 0.001] [--no-others]
    python -m benchmarks.sparse linear [--density 0.1 0.05 0.01] [--no-others]
    python -m benchmarks.sparse inference [--model vgg16] [--cells uniform:0.99 ...]

All alternatives are interleaved in one process. The output is the median of --rounds, and the speed-up over the faster
of dense float32 and bfloat16 (channels-last). Dense networks compute what masked execution computes, without masks.
Sparse networks store activations in float32 and in bfloat16. `steps` also prints the speed-up predicted by the cost
model by which `trainer.execution=auto` decides. A call with two cells takes about a minute.

`--prototype` is a folder with another implementation of vgg16: a kernels.cpp, and a prototype.py that defines
Net(masks, images), SGD(parameters) and masks(density, fraction). `convolutions` times the forward pass and both
gradients, also of torch.sparse, and of both modes of SparseProp if it is installed; `linear` does so for linear layers,
and for SparseLab if it is installed (`pip install --no-deps sparselab==0.2.2`).
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.interleaved import interleave
from ersparse import models, sparsify
from ersparse.cli.export import dense_size
from ersparse.export.benchmark import benchmark_table
from ersparse.export.folded import fold
from ersparse.export.sparse_file import InputSpec, write
from ersparse.kernels.buffers import Precision
from ersparse.kernels.cost_model import predicted_speedup
from ersparse.kernels.network import SparseNetwork
from ersparse.sparse.layers import prunable_layers
from ersparse.sparse.mask import masks_of
from ersparse.sparse.positions import positions

CELLS = ["uniform:0.99", "uniform:0.999"]  # density distribution and sparsity
LAYERS = [(3, 64, 32), (64, 64, 32), (256, 256, 8), (512, 512, 4), (512, 512, 2)]  # channels in and out, image side
LINEAR = [  # features in and out, rows
    (384, 1536, 2048), (640, 2560, 1024), (2560, 640, 1024), (3072, 1024, 128), (1024, 1024, 128),
]  # fmt: skip
STORAGE_DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}
Step = Callable[[], Any]


def print_comparison(title: str, steps: dict[str, Step], rounds: int) -> None:
    """Print the median time of each step, and its speed-up over the faster dense one."""
    medians = {name: statistics.median(seconds) for name, seconds in interleave(steps, rounds).items()}
    dense = min(medians["dense f32"], medians["dense bf16"])
    print(title)
    for name, seconds in medians.items():
        print(f"  {name:28}{1e3 * seconds:9.1f} ms {dense / seconds:7.2f} x", flush=True)


# ---- training steps


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


# ---- a 3x3 convolution: forward pass, gradient of the input, gradient of the weights


def layer_step(layer: Callable[[Tensor], Tensor], x: Tensor, bfloat16: bool = False) -> Step:
    """Return the forward and backward pass of a layer."""
    x = x.clone().requires_grad_()

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            y = layer(x)
        y.backward(torch.ones_like(y))

    return step


def torch_sparse_step(weight: Tensor, x: Tensor) -> Step:
    """Return the step as products of CSR matrices with the unfolded images, [C * 9, B * H * W]."""
    rows = weight.flatten(1).to_sparse_csr()
    columns, size = rows.to_dense().t().to_sparse_csr(), x.shape[2:]

    def step() -> None:
        unfolded = F.unfold(x, 3, padding=1).movedim(0, 1).flatten(1)
        y = rows @ unfolded
        gradient = torch.ones_like(y)
        input_gradient = (columns @ gradient).view(len(unfolded), len(x), -1).movedim(1, 0)
        F.fold(input_gradient, size, 3, padding=1)
        torch.sparse.sampled_addmm(rows, gradient, unfolded.t(), beta=0)

    return step


def compare_convolutions(arguments: argparse.Namespace) -> None:
    """Compare single convolutions of all layer shapes and densities."""
    for n_in, n_out, side in LAYERS:
        x = torch.relu(torch.randn(arguments.batch, n_in, side, side))
        for density in arguments.density:
            layer, dense = (nn.Conv2d(n_in, n_out, 3, padding=1, bias=False) for _ in range(2))
            sparsify(layer, "uniform", 1 - density, flow="none")
            weight = layer.weight.detach().clone()
            dense, nhwc = (v.to(memory_format=torch.channels_last) for v in (dense, x))
            steps = {f"dense {p}": layer_step(dense, nhwc, p == "bf16") for p in STORAGE_DTYPES}
            for name, dtype in STORAGE_DTYPES.items():
                sparse = SparseNetwork(copy.deepcopy(layer), Precision(torch.float32, dtype))
                steps[f"ours {name}"] = layer_step(sparse, x)
            if arguments.others:
                steps["torch.sparse CSR"] = torch_sparse_step(weight, x)
            if arguments.others and importlib.util.find_spec("sparseprop"):
                steps |= {f"SparseProp {mode}": layer_step(m, x) for mode, m in sparseprop_layers(weight).items()}
            print_comparison(f"{n_in} to {n_out} at {side}x{side}, density {density:g}", steps, arguments.rounds)


def compare_linear(arguments: argparse.Namespace) -> None:
    """Compare single linear layers of all shapes and densities, on rows of features as PyTorch stores them."""
    for n_in, n_out, rows in LINEAR:
        x = torch.randn(rows, n_in)
        for density in arguments.density:
            dense, layer = nn.Linear(n_in, n_out, bias=False), nn.Sequential(nn.Linear(n_in, n_out, bias=False))
            sparsify(layer, "uniform", 1 - density, flow="none")
            steps = {f"dense {p}": layer_step(dense, x, p == "bf16") for p in STORAGE_DTYPES}
            for name, dtype in STORAGE_DTYPES.items():
                sparse = SparseNetwork(copy.deepcopy(layer), Precision(torch.float32, dtype))
                steps[f"ours {name}"] = layer_step(sparse, x[:, :, None, None])
            if arguments.others and importlib.util.find_spec("sparselab"):
                from sparselab import SparseLinear

                steps["SparseLab"] = layer_step(SparseLinear(n_in, n_out, bias=False, sparsity=1 - density), x)
            print_comparison(f"{n_in} to {n_out}, {rows} rows, density {density:g}", steps, arguments.rounds)


def sparseprop_layers(weight: Tensor) -> dict[str, nn.Module]:
    """Return the layer in both modes of SparseProp, by the dimension over which it vectorises."""
    from sparseprop.modules import SparseConv2d

    return {
        mode: SparseConv2d(weight, padding=1, vectorizing_over_on=over)
        for mode, over in (("images", False), ("pixels", True))
    }


# ---- inference


def compare_inference(arguments: argparse.Namespace) -> None:
    """Compare exported networks of all cells with the dense network."""
    inputs = InputSpec(3, 32, [0.5] * 3, [0.2] * 3)
    for cell in arguments.cells:
        density, level = cell.split(":")
        network = getattr(models, arguments.model)(10)
        sparsify(network, density, float(level))
        folded = fold(network.eval())
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "network.sparse"
            write(path, folded, inputs)
            size = path.stat().st_size
        table = benchmark_table(folded, inputs, size, dense_size(folded))
        Console(soft_wrap=True).print(f"{arguments.model} {cell}", table)


COMPARISONS = {
    "steps": compare_steps, "convolutions": compare_convolutions, "linear": compare_linear,
    "inference": compare_inference,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=COMPARISONS)
    parser.add_argument("--model", default="vgg16")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cells", nargs="+", default=CELLS)
    parser.add_argument("--density", nargs="+", type=float, default=[0.1, 0.01, 0.001])
    parser.add_argument("--others", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--prototype", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    COMPARISONS[arguments.what](arguments)


if __name__ == "__main__":
    main()
