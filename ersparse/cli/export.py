"""`python -m ersparse export <run folder> [--format sparse|onnx] [--out FILE] [--benchmark]`."""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Sequence
from pathlib import Path

import torch

from ersparse.api import load
from ersparse.errors import UserError
from ersparse.export import sparse_file
from ersparse.export.folded import FoldedNetwork, fold
from ersparse.kernels.fused_graph import NotCovered
from ersparse.storage.atomic import write_bytes
from ersparse.storage.run_folder import RunFolder

SUFFIX = {"sparse": "network.sparse", "onnx": "network.onnx"}


def main(words: Sequence[str]) -> int:
    """Writes the file, into the run folder unless `--out` is given.

    Raises:
        UserError: the folder holds no finished run, or its network is not covered.
    """
    parser = argparse.ArgumentParser(prog="ersparse export")
    parser.add_argument("run", type=Path)
    parser.add_argument("--format", choices=SUFFIX, default="sparse")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--benchmark", action="store_true")
    asked = parser.parse_args(words)
    out: Path = asked.out or asked.run / SUFFIX[asked.format]
    network, images = finished(asked.run)
    try:
        if asked.format == "onnx":
            write_onnx(out, network, images)
        else:
            sparse_file.write(out, network, images)
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror or error})") from None
    size, dense = out.stat().st_size, dense_size(network)
    print(f"{out}: {size / 1e6:.3g} MB, {size / dense:.4f} of the dense network's {dense / 1e6:.3g} MB")
    if asked.benchmark:
        from ersparse.export.benchmark import benchmark_table
        from ersparse.runs.console import make_console

        make_console().print(benchmark_table(network, images, size, dense))
    return 0


def finished(run: Path) -> tuple[FoldedNetwork, sparse_file.InputSpec]:
    """The network of a finished run as it predicts, and what it takes.

    Raises:
        UserError: the folder holds no finished run, or there is no kernel for a layer.
    """
    try:
        network = fold(load(run))
    except NotCovered as layer:
        raise UserError(f"{run}: there is no sparse kernel for {layer}") from None
    dataset = (RunFolder(run).read() or {})["config"]["dataset"]
    return network, sparse_file.InputSpec(dataset["channels"], dataset["image_size"], dataset["mean"], dataset["std"])


def write_onnx(path: Path, network: FoldedNetwork, images: sparse_file.InputSpec) -> None:
    """Dense weights, zeros and all: normalised `images` [N, channels, side, side] -> `logits`.

    Raises:
        UserError: PyTorch's exporter lacks a package.
    """
    for package in ("onnx", "onnxscript"):
        if importlib.util.find_spec(package) is None:
            raise UserError(
                f"--format onnx: {package} is not installed; pip install onnx onnxscript, or --format sparse"
            )
    example = torch.zeros(2, images.channels, images.side, images.side)
    program = torch.onnx.export(
        network, (example,), input_names=["images"], output_names=["logits"], dynamo=True, verbose=False,
        dynamic_shapes={"x": {0: torch.export.Dim("n")}},
    )  # fmt: skip
    assert program is not None
    write_bytes(path, program.model_proto.SerializeToString())


def dense_size(network: FoldedNetwork) -> int:
    """Bytes of its weights and biases as float32."""
    return sum(4 * parameter.numel() for parameter in network.parameters())
