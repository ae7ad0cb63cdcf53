"""Prediction with exported networks."""

from __future__ import annotations

import argparse
import tempfile
from functools import partial
from pathlib import Path

from rich.console import Console

from benchmarks.sparse.peers import compare_with_peers
from ersparse import models, sparsify
from ersparse.cli.export import dense_size
from ersparse.export.benchmark import benchmark_table
from ersparse.export.folded import fold
from ersparse.export.sparse_file import InputSpec, write
from ersparse.models.libraries import torchvision_network


def compare_inference(arguments: argparse.Namespace) -> None:
    """Compare exported networks of all cells with the dense network."""
    inputs = InputSpec(3, 32, [0.5] * 3, [0.2] * 3)
    for cell in arguments.cells:
        density, level = cell.split(":")
        build = getattr(models, arguments.model, None) or partial(torchvision_network, name=arguments.model)
        network = build(10)
        sparsify(network, density, float(level))
        folded = fold(network.eval())
        if arguments.peers:
            print(f"{arguments.model} {cell}, milliseconds by images in a batch")
            compare_with_peers(folded, inputs, arguments.peers, arguments.threads, arguments.rounds)
            continue
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "network.sparse"
            write(path, folded, inputs)
            size = path.stat().st_size
        table = benchmark_table(folded, inputs, size, dense_size(folded))
        Console(soft_wrap=True).print(f"{arguments.model} {cell}", table)
