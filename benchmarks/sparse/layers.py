"""Single layers: forward pass, gradient of the input, gradient of the weights."""

from __future__ import annotations

import argparse
import copy
import ctypes
import importlib.util
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.sparse.comparison import STORAGE_DTYPES, Step, print_comparison
from ersparse import sparsify
from ersparse.kernels import abi
from ersparse.kernels.buffers import Precision
from ersparse.kernels.network import SparseNetwork

LAYERS = [(3, 64, 32), (64, 64, 32), (256, 256, 8), (512, 512, 4), (512, 512, 2)]  # channels in and out, image side
LINEAR = [  # features in and out, rows
    (384, 1536, 2048), (640, 2560, 1024), (2560, 640, 1024), (3072, 1024, 128), (1024, 1024, 128),
]  # fmt: skip


def layer_step(layer: Callable[[Tensor], Tensor], x: Tensor, bfloat16: bool = False) -> Step:
    """Return the forward and backward pass of a layer."""
    x = x.clone().requires_grad_()

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            y = layer(x)
        y.backward(torch.ones_like(y))

    return step


def inner_step(sparse: SparseNetwork, x: Tensor) -> Step:
    """Return the step of a layer inside a network: activations are in the layout of the kernels, and stay in it."""
    layer_step(sparse, x)()  # allocates the program
    ((_, program),) = sparse._programs.values()
    passes = []
    for operations in (program._forward, program._backward):
        kept = [op for op in operations.packed if op.kind not in (abi.ENTER, abi.LEAVE)]
        passes.append((abi.Op * len(kept))(*kept))

    def step() -> None:
        for ops in passes:
            program.kernels.run(ctypes.byref(ops), len(ops), len(x), 1, program.workspace.threads)

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
                steps[f"ours {name}, inside a network"] = inner_step(sparse, x)
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
