"""The command `ersparse export <run folder> [--format sparse|onnx] [--out FILE] [--int8] [--benchmark]`."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from ersparse.api import load, load_images
from ersparse.cli.arguments import CommandParser
from ersparse.data.streamed import StreamedPart
from ersparse.errors import UserError
from ersparse.export import sparse_file
from ersparse.export.folded import FoldedNetwork, fold
from ersparse.export.predictor import MAX_BATCH_SIZE, load_sparse
from ersparse.export.ranges import Ranges, observe
from ersparse.kernels.nodes import NotCovered
from ersparse.storage.atomic import write_bytes
from ersparse.storage.run_folder import RunFolder

FILE_NAMES = {"sparse": "network.sparse", "onnx": "network.onnx"}  # by format
CALIBRATION_IMAGES = 512


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
    if options.int8 and options.format != "sparse":
        raise UserError(f"--int8: ranges of activations are written with --format sparse, not {options.format}")
    data = load_images(options.run, trust=options.trust) if options.int8 else None
    ranges = observe_samples(network, images, data.x_train) if data and isinstance(network, FoldedNetwork) else None
    _write(path, options.format, network, images, ranges)
    size, dense = path.stat().st_size, dense_size(network)
    print(f"{path}: {size / 1e6:.3g} MB, {size / dense:.4f} of the dense network's {dense / 1e6:.3g} MB")
    if data:
        print(_int8_accuracy(path, data.x_test, data.y_test))
    if options.benchmark and isinstance(network, FoldedNetwork):
        from ersparse.export.benchmark import benchmark_table
        from ersparse.runs.console import make_console

        make_console().print(benchmark_table(network, images, size, dense, ranges))
    return 0


def _parser() -> CommandParser:
    parser = CommandParser("ersparse export", description="Write the network of a finished run for prediction.")
    parser.add_argument("run", type=Path)
    parser.add_argument("--format", choices=FILE_NAMES, default="sparse")
    parser.add_argument("--out", type=Path)
    parser.add_argument(
        "--trust", action="append", default=[], metavar="PACKAGE", help="whose code the record of the run may name"
    )
    parser.add_argument("--int8", action="store_true", help="measure the ranges that prediction in 8 bits needs")
    parser.add_argument("--benchmark", action="store_true")
    return parser


def observe_samples(network: FoldedNetwork, inputs: sparse_file.InputSpec, images: Tensor | StreamedPart) -> Ranges:
    """Return the ranges of a network's tensors on `CALIBRATION_IMAGES` of the images, evenly spaced."""
    chosen = torch.linspace(0, len(images) - 1, min(len(images), CALIBRATION_IMAGES)).long()
    return observe(network, inputs.normalize(images[chosen]))


def _int8_accuracy(path: Path, images: Tensor | StreamedPart, labels: Tensor) -> str:
    """Say what 8 bits cost: the test accuracy of the file in float32 and in int8."""
    predictors = [load_sparse(path, storage) for storage in ("float32", "int8")]
    exact, rounded = (
        torch.cat([predict(images[n : n + MAX_BATCH_SIZE]).argmax(1) for n in range(0, len(images), MAX_BATCH_SIZE)])
        for predict in predictors
    )
    accuracies = [(classes == labels).float().mean().item() for classes in (exact, rounded)]
    differing = (exact != rounded).float().mean().item()
    return (
        f"test accuracy {accuracies[0]:.4f} in float32 and {accuracies[1]:.4f} in int8; "
        f"{100 * differing:.2f} % of {len(labels)} predictions differ"
    )


def _write(
    path: Path, file_format: str, network: nn.Module, images: sparse_file.InputSpec, ranges: Ranges | None
) -> None:
    try:
        if file_format == "onnx":
            write_onnx(path, network, images)
        else:
            assert isinstance(network, FoldedNetwork)
            sparse_file.write(path, network, images, ranges)
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
