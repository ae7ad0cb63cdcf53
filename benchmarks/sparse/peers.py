"""Prediction beside other engines, each in a process of its own environment (benchmarks/peers/make.sh)."""

from __future__ import annotations

import json
import statistics
import subprocess
import tempfile
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch

from benchmarks.hardware_limits import peak_flops
from ersparse.export.benchmark import median_seconds
from ersparse.export.folded import FoldedNetwork
from ersparse.export.predictor import sparse_forward
from ersparse.export.ranges import observe
from ersparse.export.sparse_file import InputSpec
from ersparse.sparse.mask import masks_of
from ersparse.sparse.positions import positions

BATCHES = (1, 16, 128)
ENGINES = ("onnxruntime", "deepsparse", "openvino")  # ONNX Runtime writes the networks in 8 bits
TIMER = Path(__file__).parents[1] / "peers/time_networks.py"
Times = dict[str, dict[int, list[float]]]  # milliseconds by engine and batch, one for each round


@torch.no_grad()
def write_onnx(network: FoldedNetwork, inputs: InputSpec, folder: Path) -> list[Path]:
    """Write the network for each batch size as ONNX, and images with their outputs beside it; needs `onnx`."""
    paths = []
    for batch in BATCHES:
        x = torch.randn(batch, inputs.channels, inputs.side, inputs.side)
        path = folder / f"{batch}.onnx"
        torch.onnx.export(
            network, (x,), str(path), opset_version=13, dynamo=False, input_names=["images"], output_names=["logits"]
        )
        np.savez(path.with_suffix(".npz"), x=x.numpy(), y=network(x).numpy())
        paths.append(path)
    return paths


def time_ours(network: FoldedNetwork, inputs: InputSpec, times: Times) -> None:
    """Add the times of sparse prediction in float32, in int8, and in bfloat16 for the batch that it is for."""
    ranges = observe(network, torch.randn(64, inputs.channels, inputs.side, inputs.side))
    for name, storage, batches in (
        ("f32", torch.float32, BATCHES), ("bf16", torch.bfloat16, BATCHES[2:]), ("int8", torch.int8, BATCHES),
    ):  # fmt: skip
        run = sparse_forward(network, inputs, storage, ranges)
        for batch in batches:
            x = torch.randn(batch, inputs.channels, inputs.side, inputs.side)
            times[f"ersparse {name}"][batch].append(1e3 * median_seconds(run, x))


def time_peers(peers: Path, paths: list[Path], threads: int, times: Times) -> None:
    """Add the times of every engine whose environment is there, and say which of them fail."""
    for engine in ENGINES:
        python = peers / engine / "bin/python"
        if python.exists():
            command = [str(python), "-E", str(TIMER), engine, str(threads), *map(str, paths)]
            result = subprocess.run(command, capture_output=True, text=True)
            for line in filter(lambda text: text.startswith('{"engine"'), result.stdout.splitlines()):
                found = json.loads(line)
                times[found["engine"]][int(Path(found["file"]).stem)].append(found["ms"])
                if found["difference"] > (1e-3 if "f32" in found["engine"] else 0.1):
                    print(f"  {found['engine']}: outputs differ by {found['difference']:.2g} of the largest")
            if result.returncode:
                print(f"  {engine} failed: {(result.stderr.strip().splitlines() or ['no reason given'])[-1]}")


def compare_with_peers(network: FoldedNetwork, inputs: InputSpec, peers: Path, threads: int, rounds: int) -> None:
    """Print medians and ranges over the rounds, the machine's floor, and ratios to the fastest other engines."""
    uses = positions(network, inputs.channels, inputs.side)
    operations = 2 * sum(int(mask.sum()) * uses[name] for name, mask in masks_of(network).items())
    times: Times = defaultdict(lambda: defaultdict(list))
    with tempfile.TemporaryDirectory() as folder:
        paths = write_onnx(network, inputs, Path(folder))
        for _ in range(rounds):
            time_ours(network, inputs, times)
            time_peers(peers, paths, threads, times)
    for name, by_batch in times.items():
        cells = (f"{b}: {statistics.median(v):.2f} ({min(v):.2f} to {max(v):.2f})" for b, v in by_batch.items())
        print(f"  {name:28}{'   '.join(cells)} ms", flush=True)
    for batch in BATCHES:
        seconds = batch * operations / peak_flops(torch.float32)
        print(f"  batch {batch}: operations of kept weights at the peak rate of float32: {1e3 * seconds:.2f} ms")
        medians = {name: statistics.median(v[batch]) for name, v in times.items() if v[batch]}
        others = {name: ms for name, ms in medians.items() if not name.startswith("ersparse")}
        for ours in sorted(set(medians) - set(others)):
            for kind in ("", "int8", "dense"):  # of all, of those in 8 bits, and of those for dense networks
                best = min((name for name in others if kind in name), key=others.__getitem__, default=None)
                if best:
                    print(f"  batch {batch}: {best} / {ours} = {others[best] / medians[ours]:.2f}")
