"""Sparse execution beside dense layers and beside other sparse ones, on the CPU.

    python -m benchmarks.sparse steps [--model vgg16] [--cells uniform:0.99 ...] [--prototype FOLDER]
    python -m benchmarks.sparse convolutions [--density 0.1 0.01 0.001] [--no-others]
    python -m benchmarks.sparse inference [--model vgg16] [--cells uniform:0.99 ...]

What is compared takes turns in one process; figures are medians of --rounds, and ratios are to
the better of dense float32 and bfloat16 (channels-last). Dense networks do what masked execution does, without masks.
Sparse ones are timed with float32 and with bfloat16 between their layers; the latter stand beside the model by which
`trainer.execution=auto` decides. A call with two cells takes about a minute.

`--prototype` names a folder with another implementation of vgg16: a kernels.cpp and a prototype.py that has
Net(masks, images), SGD(parameters) and masks(density, share). Of convolutions forward and both gradients are timed,
torch.sparse and SparseProp (where it is installed, in both of its modes) among them.
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

from benchmarks.interleaved import in_turns
from ersparse import models, sparsify
from ersparse.cli.export import dense_size
from ersparse.export.benchmark import benchmark_table
from ersparse.export.folded import fold
from ersparse.export.sparse_file import InputSpec, write
from ersparse.kernels.buffers import Precision
from ersparse.kernels.cost_model import predicted_speedup
from ersparse.kernels.network import SparseNetwork
from ersparse.sparse.layers import positions, prunable_layers
from ersparse.sparse.mask import masks_of

CELLS = ["uniform:0.99", "uniform:0.999"]
LAYERS = [(3, 64, 32), (64, 64, 32), (256, 256, 8), (512, 512, 4), (512, 512, 2)]  # channels in, out, side of an image
STORED = {"f32": torch.float32, "bf16": torch.bfloat16}
Run = Callable[[], Any]


def show(title: str, runs: dict[str, Run], rounds: int) -> None:
    """Medians of runs that take turns, and ratios to the better dense one's."""
    found = {name: statistics.median(seconds) for name, seconds in in_turns(runs, rounds).items()}
    better = min(found["dense f32"], found["dense bf16"])
    print(title)
    for name, seconds in found.items():
        print(f"  {name:28}{1e3 * seconds:9.1f} ms {better / seconds:7.2f} x", flush=True)


# ---- training steps


def step_of(network: Callable[[Tensor], Tensor], trained: Iterable[nn.Parameter], x: Tensor, bf16: bool = False) -> Run:
    optimizer = torch.optim.SGD(trained, 0.01, 0.9, weight_decay=5e-4, fused=True)
    y = torch.arange(len(x)) % 10

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = F.cross_entropy(network(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def operations(network: nn.Module) -> list[tuple[int, float]]:
    """Of each layer: its operations if it was dense, and its density."""
    used, masks = positions(network, 3, 32), masks_of(network)
    return [
        (layer.size * used[layer.name], float(masks[layer.name].float().mean())) for layer in prunable_layers(network)
    ]


def prototype_step(prototype: Any, density: str, level: float, x: Tensor) -> Run:
    network = prototype.Net(prototype.masks(density, 1 - level), len(x))
    optimizer, y = prototype.SGD(network.params), torch.arange(len(x)) % 10

    def step() -> None:
        logits = network.forward(x).requires_grad_()
        F.cross_entropy(logits, y).backward()
        network.backward(logits.grad)
        optimizer.step(network.grads(), 0.01)

    return step


def load_prototype(folder: Path) -> Any:
    """Compiled into a folder that is gone at the end of this process."""
    built = Path(tempfile.mkdtemp(prefix="prototype-")) / "kernels.so"
    flags = ("-O3", "-march=native", "-fopenmp", "-shared", "-fPIC")
    subprocess.run(["g++", *flags, "-o", str(built), str(folder / "kernels.cpp")], check=True)
    spec = importlib.util.spec_from_file_location("prototype", folder / "prototype.py")
    assert spec and spec.loader
    module, sys.argv = importlib.util.module_from_spec(spec), [sys.argv[0], str(built)]
    spec.loader.exec_module(module)
    return module


def steps(asked: argparse.Namespace) -> None:
    x = torch.randn(asked.batch, 3, 32, 32)
    dense = getattr(models, asked.model)(10).to(memory_format=torch.channels_last)
    nhwc = x.to(memory_format=torch.channels_last)
    runs = {f"dense {p}": step_of(dense, dense.parameters(), nhwc, p == "bf16") for p in STORED}
    prototype = load_prototype(asked.prototype) if asked.prototype else None
    for cell in asked.cells:
        density, level = cell.split(":")
        for name, stored in STORED.items():
            network = getattr(models, asked.model)(10)
            sparsify(network, density, float(level))
            sparse = SparseNetwork(network, Precision(torch.float32, stored))
            runs[f"{density} {level} {name}"] = step_of(sparse, sparse.trainable_parameters(), x)
        print(f"{density} {level}: {predicted_speedup(operations(network)):.2f} x by the model")
        if prototype:
            runs[f"{density} {level} prototype"] = prototype_step(prototype, density, float(level), x)
    show(f"{asked.model}, a training step of {asked.batch} images", runs, asked.rounds)


# ---- one convolution, 3x3: forward, gradient of the input, gradient of the weights


def layer_step(layer: Callable[[Tensor], Tensor], x: Tensor, bf16: bool = False) -> Run:
    x = x.clone().requires_grad_()

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            y = layer(x)
        y.backward(torch.ones_like(y))

    return step


def our_steps(layer: nn.Module, x: Tensor, name: str) -> dict[str, Run]:
    """From PyTorch's layout and back, and in the kernels' own, in which a network stays from entry to exit."""
    sparse = SparseNetwork(layer, Precision(torch.float32, STORED[name]))
    whole = layer_step(sparse, x)
    whole()
    ((_, program),) = sparse._programs.values()

    def within() -> None:
        program._run(program._forward, len(x))
        program._run(program._backward, len(x))

    return {f"ours {name}": whole, f"ours {name}, in its layout": within}


def csr_step(weight: Tensor, x: Tensor) -> Run:
    """As products with the unfolded images, [C * 9, B * H * W]."""
    rows = weight.flatten(1).to_sparse_csr()
    columns, side = rows.to_dense().t().to_sparse_csr(), x.shape[2:]

    def step() -> None:
        unfolded = F.unfold(x, 3, padding=1).movedim(0, 1).flatten(1)
        y = rows @ unfolded
        gradient = torch.ones_like(y)
        back = (columns @ gradient).view(len(unfolded), len(x), -1).movedim(1, 0)
        F.fold(back, side, 3, padding=1)
        torch.sparse.sampled_addmm(rows, gradient, unfolded.t(), beta=0)

    return step


def convolutions(asked: argparse.Namespace) -> None:
    for n_in, n_out, side in LAYERS:
        x = torch.relu(torch.randn(asked.batch, n_in, side, side))
        for density in asked.density:
            layer, dense = (nn.Conv2d(n_in, n_out, 3, padding=1, bias=False) for _ in range(2))
            sparsify(layer, "uniform", 1 - density, flow="none")
            weight = layer.weight.detach().clone()
            dense, nhwc = (v.to(memory_format=torch.channels_last) for v in (dense, x))
            runs = {f"dense {p}": layer_step(dense, nhwc, p == "bf16") for p in STORED}
            runs |= our_steps(layer, x, "f32") | our_steps(copy.deepcopy(layer), x, "bf16")
            if asked.others:
                runs["torch.sparse CSR"] = csr_step(weight, x)
            if asked.others and importlib.util.find_spec("sparseprop"):
                runs |= {f"SparseProp {mode}": layer_step(m, x) for mode, m in sparseprop(weight).items()}
            show(f"{n_in} to {n_out} at {side}x{side}, density {density:g}", runs, asked.rounds)


def sparseprop(weight: Tensor) -> dict[str, nn.Module]:
    from sparseprop.modules import SparseConv2d

    return {
        mode: SparseConv2d(weight, padding=1, vectorizing_over_on=over)
        for mode, over in (("images", False), ("pixels", True))
    }


# ---- prediction


def inference(asked: argparse.Namespace) -> None:
    images = InputSpec(3, 32, [0.5] * 3, [0.2] * 3)
    for cell in asked.cells:
        density, level = cell.split(":")
        network = getattr(models, asked.model)(10)
        sparsify(network, density, float(level))
        folded = fold(network.eval())
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "network.sparse"
            write(path, folded, images)
            size = path.stat().st_size
        Console(soft_wrap=True).print(
            f"{asked.model} {cell}", benchmark_table(folded, images, size, dense_size(folded))
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["steps", "convolutions", "inference"])
    parser.add_argument("--model", default="vgg16")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cells", nargs="+", default=CELLS)
    parser.add_argument("--density", nargs="+", type=float, default=[0.1, 0.01, 0.001])
    parser.add_argument("--others", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--prototype", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    {"steps": steps, "convolutions": convolutions, "inference": inference}[asked.what](asked)


if __name__ == "__main__":
    main()
