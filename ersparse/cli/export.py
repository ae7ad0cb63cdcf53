"""The command `ersparse export <run folder> [--format sparse|onnx] [--out FILE] [--benchmark]`."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from ersparse.api import load
from ersparse.cli.arguments import CommandParser
from ersparse.errors import UserError
from ersparse.export import sparse_file
from ersparse.export.folded import FoldedNetwork, fold
from ersparse.kernels.nodes import NotCovered
from ersparse.storage.atomic import write_bytes
from ersparse.storage.run_folder import RunFolder

FILE_NAMES = {"sparse": "network.sparse", "onnx": "network.onnx"}  # by format


def main(arguments: Sequence[str]) -> int:
    """Write the network of a finished run to a file, by default in its run folder, and return the exit status.

    Raises:
        UserError: the folder holds no finished run, its network has a layer without a kernel, or the file cannot be
            written.
    """
    options = _parser().parse_args(arguments)
    path: Path = options.out or options.run / FILE_NAMES[options.format]
    network: nn.Module
    if options.format == "onnx" and not options.benchmark:
        network, images = _load_for_onnx(options.run, options.trust)
    else:
        network, images = load_folded(options.run, options.trust)
    _write(path, options.format, network, images)
    size, dense = path.stat().st_size, dense_size(network)
    print(f"{path}: {size / 1e6:.3g} MB, {size / dense:.4f} of the dense network's {dense / 1e6:.3g} MB")
    if options.benchmark and isinstance(network, FoldedNetwork):
        from ersparse.export.benchmark import benchmark_table
        from ersparse.runs.console import make_console

        make_console().print(benchmark_table(network, images, size, dense))
    return 0


def _parser() -> CommandParser:
    parser = CommandParser("ersparse export", description="Write the network of a finished run for prediction.")
    parser.add_argument("run", type=Path)
    parser.add_argument("--format", choices=FILE_NAMES, default="sparse")
    parser.add_argument("--out", type=Path)
    parser.add_argument(
        "--trust", action="append", default=[], metavar="PACKAGE", help="whose code the record of the run may name"
    )
    parser.add_argument("--benchmark", action="store_true")
    return parser


def _write(path: Path, file_format: str, network: nn.Module, images: sparse_file.InputSpec) -> None:
    try:
        if file_format == "onnx":
            write_onnx(path, network, images)
        else:
            assert isinstance(network, FoldedNetwork)
            sparse_file.write(path, network, images)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error})") from None


def load_folded(run: Path, trust: Sequence[str] = ()) -> tuple[FoldedNetwork, sparse_file.InputSpec]:
    """Return the network of a finished run with BatchNorm folded into its layers, and the format of its input images.

    Raises:
        UserError: the folder holds no finished run, there is no kernel for a layer, or the record names code that is
            not trusted.
    """
    try:
        return fold(load(run, trust=trust)), _input_spec(run)
    except NotCovered as layer:
        raise UserError(f"{run}: there is no sparse kernel for {layer}; --format onnx needs none") from None


def _load_for_onnx(run: Path, trust: Sequence[str]) -> tuple[nn.Module, sparse_file.InputSpec]:
    """Return the network as `load_folded` does, but unchanged if it cannot be folded, and the format of its images."""
    network = load(run, trust=trust)
    try:
        return fold(network), _input_spec(run)
    except NotCovered:
        return network, _input_spec(run)


def _input_spec(run: Path) -> sparse_file.InputSpec:
    dataset = (RunFolder(run).read() or {})["config"]["dataset"]
    if not isinstance(dataset["image_size"], int):
        raise UserError(f"{run}: dataset.image_size={dataset['image_size']}: only square images can be exported")
    return sparse_file.InputSpec(dataset["channels"], dataset["image_size"], dataset["mean"], dataset["std"])


def write_onnx(path: Path, network: nn.Module, images: sparse_file.InputSpec) -> None:
    """Write the network in ONNX format, with dense weights, zeros included.

    The input `images` is [N, channels, side, side], normalised; the output is `logits`.

    Raises:
        UserError: a package that PyTorch's exporter needs is not installed.
    """
    for package in ("onnx", "onnxscript"):
        if importlib.util.find_spec(package) is None:
            raise UserError(
                f"--format onnx: {package} is not installed; pip install onnx onnxscript, or --format sparse"
            )
    example = torch.zeros(2, images.channels, images.side, images.side)
    program = torch.onnx.export(
        network, (example,), input_names=["images"], output_names=["logits"], dynamo=True, verbose=False,
        dynamic_shapes=({0: torch.export.Dim("n")},),
    )  # fmt: skip
    assert program is not None
    write_bytes(path, program.model_proto.SerializeToString())


def dense_size(network: nn.Module) -> int:
    """Return the size in bytes of the weights and biases as dense float32 tensors."""
    return sum(4 * parameter.numel() for parameter in network.parameters())
