"""Sparse execution on the CPU, compared with dense layers and with other sparse implementations.

    python -m benchmarks.sparse steps [--model vgg16] [--cells uniform:0.99 ...] [--prototype FOLDER]
    python -m benchmarks.sparse convolutions [--density 0.1 0.01 0.001] [--no-others]
    python -m benchmarks.sparse linear [--density 0.1 0.05 0.01] [--no-others]
    python -m benchmarks.sparse inference [--model vgg16] [--cells uniform:0.99 ...] [--peers FOLDER]
    python -m benchmarks.sparse memory [--sparsity 0.99]
    python -m benchmarks.sparse epoch --data FOLDER [--density 0.05 0.01]
    python -m benchmarks.sparse run --data FOLDER [--model vgg16] [--cells erk:0.995 ...]

All alternatives are interleaved in one process, but those of `memory`, each of which is a process of its own. The
output is the median of --rounds, and the speed-up over the faster of dense float32 and bfloat16 (channels-last). Dense
networks compute what masked execution computes, without masks. Sparse networks store activations in float32 and in
bfloat16. `steps` also prints the speed-up predicted by the cost model by which `trainer.execution=auto` decides. A call
with two cells takes about a minute.

`--prototype` is a folder with another implementation of vgg16: a kernels.cpp, and a prototype.py that defines
Net(masks, images), SGD(parameters) and masks(density, fraction). `convolutions` times the forward pass and both
gradients, also of torch.sparse, and of both modes of SparseProp if it is installed; `linear` does so for linear layers,
and for SparseLab if it is installed (`pip install --no-deps sparselab==0.2.2`), as do `memory` and `epoch`.
`inference --peers` compares with the engines whose environments `benchmarks/peers/make.sh FOLDER` has made, instead of
with PyTorch, by ONNX files; it needs the package `onnx`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from benchmarks.sparse.epoch import compare_epochs
from benchmarks.sparse.inference import compare_inference
from benchmarks.sparse.layers import compare_convolutions, compare_linear
from benchmarks.sparse.memory import compare_memory
from benchmarks.sparse.run import compare_run
from benchmarks.sparse.steps import compare_steps

CELLS = ["uniform:0.99", "uniform:0.999"]  # density distribution and sparsity
COMPARISONS = {
    "steps": compare_steps, "convolutions": compare_convolutions, "linear": compare_linear,
    "inference": compare_inference, "memory": compare_memory, "epoch": compare_epochs, "run": compare_run,
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
    parser.add_argument("--sparsity", type=float, default=0.99)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--peers", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    COMPARISONS[arguments.what](arguments)


if __name__ == "__main__":
    main()
