"""Time one engine on ONNX files: python time_networks.py ENGINE THREADS FILE.onnx ...

It runs in the engine's own environment and imports nothing from ersparse. Beside each file lies one of the same name
that ends in .npz, with images `x` and the outputs `y` that are expected. It prints a line of JSON for each file and
variant of the engine: its name, the file, milliseconds and the largest difference relative to the largest output.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

MIN_REPETITIONS, MIN_SECONDS = 7, 0.5  # both are minima
Run = Callable[[Any], Any]


def deepsparse(path: Path, threads: int, batch: int) -> Iterator[tuple[str, Run]]:
    from deepsparse import Engine

    for precision, file in available(path):
        engine = Engine(str(file), batch_size=batch, num_cores=threads)
        yield f"DeepSparse {precision}", lambda x, e=engine: e.run([x])[0]


def onnxruntime(path: Path, threads: int, batch: int) -> Iterator[tuple[str, Run]]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    quantise(path)
    for precision, file in available(path):
        session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        yield f"ONNX Runtime {precision}, dense", lambda x, s=session: s.run(None, {"images": x})[0]


def quantise(path: Path) -> None:
    """Write a copy of the network with weights and activations of 8 bits, calibrated on the images beside it."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Images(CalibrationDataReader):
        batches = iter([{"images": np.load(path.with_suffix(".npz"))["x"]}])

        def get_next(self) -> Any:
            return next(self.batches, None)

    quantize_static(
        str(path), str(path.with_suffix(".int8.onnx")), Images(), quant_format=QuantFormat.QDQ, per_channel=True,
        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
    )  # fmt: skip


def available(path: Path) -> list[tuple[str, Path]]:
    """Return the network, and its copy in 8 bits if ONNX Runtime, which writes it, has been timed before."""
    copy = path.with_suffix(".int8.onnx")
    return [("f32", path), *([("int8", copy)] if copy.exists() else [])]


def openvino(path: Path, threads: int, batch: int) -> Iterator[tuple[str, Run]]:
    import openvino

    core = openvino.Core()
    for precision, file in [*available(path), ("bf16", path)]:
        hint = "bf16" if precision == "bf16" else "f32"  # layers between those of 8 bits
        hints = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": hint, "PERFORMANCE_HINT": "LATENCY"}
        request = core.compile_model(str(file), "CPU", hints).create_infer_request()
        yield f"OpenVINO {precision}, dense", lambda x, r=request: r.infer({0: x})[0]


def milliseconds(run: Run, x: Any) -> float:
    """Return the median time of a batch, after two passes."""
    run(x), run(x)
    seconds: list[float] = []
    while len(seconds) < MIN_REPETITIONS or sum(seconds) < MIN_SECONDS:
        start = time.perf_counter()
        run(x)
        seconds.append(time.perf_counter() - start)
    return 1e3 * statistics.median(seconds)


def main() -> None:
    engine, threads, *paths = sys.argv[1:]
    for path in map(Path, paths):
        data = np.load(path.with_suffix(".npz"))
        x = np.ascontiguousarray(data["x"])
        for name, run in {"deepsparse": deepsparse, "onnxruntime": onnxruntime, "openvino": openvino}[engine](
            path, int(threads), len(x)
        ):
            difference = float(np.abs(run(x) - data["y"]).max() / np.abs(data["y"]).max())
            line = {"engine": name, "file": path.name, "ms": milliseconds(run, x), "difference": difference}
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
