"""The command `ersparse export <run folder> [--format sparse|onnx] [--out FILE] [--int8] [--benchmark]`."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from ersparse.api import load, load_images
from ersparse.cli.arguments import CommandParser
from ersparse.data.streamed import ImageData
from ersparse.errors import RunFailed, UserError
from ersparse.export import sparse_file
from ersparse.export.folded import FoldedNetwork, fold
from ersparse.export.predictor import MAX_BATCH_SIZE, sparse_forward
from ersparse.export.ranges import Ranges, observe
from ersparse.kernels.compile import KernelsUnavailable
from ersparse.kernels.nodes import NotCovered
from ersparse.storage.atomic import write_bytes
from ersparse.storage.run_folder import RunFolder

FILE_NAMES = {"sparse": "network.sparse", "onnx": "network.onnx"}  # by format
CALIBRATION_IMAGES = 512
Forward = Callable[[Tensor], Tensor]


def main(arguments: Sequence[str]) -> int:
    """Write the network of a finished run to a file, by default in its run folder, and return the exit status.

    Raises:
        UserError: the folder holds no finished run, its network has a layer without a kernel, the file cannot be
            written, or for --int8 the data set is not available or 8 bits do not suffice.
    """
    options = _parser().parse_args(arguments)
    path: Path = options.out or options.run / FILE_NAMES[options.format]
    network: nn.Module
    if options.format == "onnx" and not options.benchmark:
        network, images = _load_for_onnx(options.run, options.trust)
    else:
        network, images = load_folded(options.run, options.trust)
    ranges, accuracy = None, ""
    if options.int8:
        if not isinstance(network, FoldedNetwork) or options.format != "sparse":
            raise UserError(f"--int8: ranges of activations are written with --format sparse, not {options.format}")
        ranges, accuracy = _measure_int8(network, images, load_images(options.run, trust=options.trust))
    _write(path, options.format, network, images, ranges)
    size, dense = path.stat().st_size, dense_size(network)
    print(f"{path}: {size / 1e6:.3g} MB, {size / dense:.4f} of the dense network's {dense / 1e6:.3g} MB")
    if accuracy:
        print(accuracy)
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
    parser.add_argument(
        "--int8", action="store_true", help="measure the ranges for prediction in 8 bits, and its test accuracy"
    )
    parser.add_argument("--benchmark", action="store_true")
    return parser


def _measure_int8(network: FoldedNetwork, inputs: sparse_file.InputSpec, images: ImageData) -> tuple[Ranges, str]:
    """Return the ranges of a network's tensors on training images, evenly spaced, and in words what 8 bits cost.

    Raises:
        UserError: an activation is not finite, a layer is too large for 8 bits, or an image is damaged.
    """
    number = len(images.x_train)
    chosen = torch.linspace(0, number - 1, min(number, CALIBRATION_IMAGES)).long()
    try:
        ranges = observe(network, inputs.normalize(images.x_train[chosen]))
        types = torch.float32, torch.int8
        return ranges, _compared([sparse_forward(network, inputs, t, ranges) for t in types], inputs, images)
    except KernelsUnavailable as reason:
        return ranges, f"what 8 bits cost is not measured: {reason}"
    except (NotCovered, RunFailed) as reason:
        raise UserError(f"--int8: {reason}") from None


def _compared(forwards: Sequence[Forward], inputs: sparse_file.InputSpec, images: ImageData) -> str:
    """Say the test accuracies in float32 and in int8, and how many predictions differ."""
    labels, classes = images.y_test, []
    for begin in range(0, len(labels), MAX_BATCH_SIZE):
        x = inputs.normalize(images.x_test[begin : begin + MAX_BATCH_SIZE])
        classes.append(torch.stack([forward(x).flatten(1).argmax(1) for forward in forwards]))
    exact, rounded = torch.cat(classes, 1)
    accuracies = [(found == labels).float().mean().item() for found in (exact, rounded)]
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
