"""The checks of the first day on a GPU. Each returns what goes into the summary.

    python -m benchmarks.gpu_checks NAME RESULT

With REHEARSE=1 they run on the CPU, on tiny networks.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

REHEARSE = os.environ.get("REHEARSE") == "1"
MODELS = ["resnet20"] if REHEARSE else ["resnet18", "vgg16", "resnet50", "resnet20", "resnet110"]
BATCH = 16 if REHEARSE else 128  # images
STEPS = 2 if REHEARSE else 100  # in each of three epochs, of which the first does not count
ABREAST = [1, 2] if REHEARSE else [1, 2, 4, 8]  # runs that share the GPU
EXECUTIONS = ["masked"] if REHEARSE else ["masked", "graphed", "compiled"]  # graphs need a GPU
METHODS = {
    "dense": ["sparsity=dense", "trainer.max_epochs=3"],
    "fixed": ["sparsity=erk", "trainer.max_epochs=3"],
    "rigl": ["sparsity=erk", "method=rigl", f"method.delta_t={STEPS}", "trainer.max_epochs=3"],
    "edge_popup": [
        "sparsity=uniform", "sparsity.level=0.5", "method=edge_popup", "method.final_sparsity=0.9", "method.levels=3",
        "method.epochs_per_level=1",
    ],
}  # fmt: skip


class Check(NamedTuple):
    """A check and the seconds after which it is stopped."""

    run: Callable[[], dict[str, Any]]
    seconds: float


def machine() -> dict[str, Any]:
    """Return the device, its versions, and its measured peak rates."""
    import torch

    from benchmarks.hardware_limits import machine_name, memory_bandwidth, peak_flops
    from ersparse.storage.provenance import gpu_versions

    rates = {"bf16_flops": peak_flops(torch.bfloat16), "bytes_per_s": memory_bandwidth()}
    return {"name": machine_name(), "versions": None if REHEARSE else gpu_versions(), **rates}


def speed(model: str, method: str, execution: str) -> dict[str, Any]:
    """Return images/s, operations per image, peak memory and waits of a usual step, of a whole run on random images."""
    import torch

    from benchmarks.plain_steps import settings_of
    from ersparse import run
    from ersparse.runs.network import positions_of
    from ersparse.runs.planner import make_plan

    with random_images() as words, watched_trainer() as waits:
        words = [*words, f"model={model}", *METHODS[method], f"trainer.execution={execution}"]
        folder = run(composed(words))
        record = json.loads((folder / "run.json").read_text())
        settings = settings_of(words)
        layers, positions = make_plan(settings).layers, positions_of(settings)
    flops = 6.0 * sum(layer.size * positions[layer.name] for layer in layers)
    memory = None if REHEARSE else torch.cuda.max_memory_allocated()
    rate = record["timing"]["images_per_s"]
    return {"images_per_s": rate, "flops_per_image": flops, "memory_bytes": memory, "waits": max(waits, default=None)}


def abreast(count: int) -> dict[str, Any]:
    """Return images/s of `count` runs of resnet20 that share the device, in all."""
    with tempfile.TemporaryDirectory() as folder:
        results = [Path(folder) / f"{number}.json" for number in range(count)]
        command = [sys.executable, "-m", "benchmarks.gpu_checks", "speed:resnet20 fixed masked"]
        processes = [subprocess.Popen([*command, str(result)]) for result in results]
        assert not any(process.wait() for process in processes)
        rates = [json.loads(result.read_text())["images_per_s"] for result in results]
    return {"images_per_s": sum(rates), "each": rates}


def interrupted() -> dict[str, Any]:
    """Terminate a run after its first checkpoint, as a scheduler does, and resume it to its end."""
    with random_images() as words:
        root = next(Path(word.partition("=")[2]) for word in words if word.startswith("paths.root="))
        command = [sys.executable, "launch.py", *words, "model=resnet20", f"trainer.max_epochs={8 if REHEARSE else 20}"]
        process = subprocess.Popen(command)
        while process.poll() is None and not list(root.rglob("checkpoints/*.ckpt")):
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        first = process.wait()
        second = subprocess.run(command, check=False).returncode
    assert (first, second) == (130, 0), f"exit status {first} and {second}"
    return {"first": first, "second": second}


def full_memory() -> dict[str, Any]:
    """Run with a batch that no GPU holds, and return the line that it prints."""
    with random_images() as words:
        command = [sys.executable, "launch.py", *words, "model=resnet50", "dataset.batch_size=1000000"]
        command += ["dataset.image_size=256"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "memory of the GPU is full" in done.stderr, done.stderr[-500:]
    return {"line": done.stderr.strip().splitlines()[-1]}


def several_devices() -> dict[str, Any]:
    """Train on two devices, which NCCL connects on GPUs, to the end."""
    with random_images() as words:
        command = [sys.executable, "launch.py", *words, "model=resnet20", "trainer.max_epochs=2", "trainer.devices=2"]
        began = time.monotonic()
        subprocess.run(command, check=True)
    return {"seconds": time.monotonic() - began}


def tests() -> dict[str, Any]:
    """Run every method on the GPU, as the tests do; a rehearsal collects them only."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-n", "0", "tests/fake_device/test_gpu.py"]
    done = subprocess.run([*command, *["--collect-only"] * REHEARSE], capture_output=True, text=True, check=False)
    print(done.stdout[-3000:])
    return {"status": done.returncode, "last_line": done.stdout.strip().splitlines()[-1]}


def composed(words: list[str]) -> dict[str, Any]:
    from benchmarks.plain_steps import compose_config

    return compose_config(words)


@contextmanager
def random_images() -> Iterator[list[str]]:
    """Yield overrides for runs on random images in the shape of CIFAR-10, in a folder that is removed afterwards."""
    from benchmarks.step import write_random_images

    with tempfile.TemporaryDirectory() as folder:
        write_random_images(Path(folder) / "cifar10.npz", STEPS * BATCH)
        words = [f"paths.root={folder}/runs", f"paths.cache={folder}/cache", f"dataset.root={folder}"]
        words += ["dataset=cifar10", "dataset.download=false", f"dataset.batch_size={BATCH}"]
        words += ["trainer=cpu", "model.width=0.25"] if REHEARSE else ["trainer=gpu"]
        yield words


@contextmanager
def watched_trainer() -> Iterator[list[int]]:
    """Yield a list to which runs in the block add how often their usual steps wait for the GPU; empty on a CPU."""
    import pytorch_lightning as pl

    from benchmarks.gpu_waits import CountWaits
    from ersparse.runs import train

    original, counting = pl.Trainer, CountWaits()
    train.pl.Trainer = lambda **options: original(**options | {"callbacks": [counting, *options["callbacks"]]})  # type: ignore[misc,assignment]
    try:
        yield counting.waits
    finally:
        train.pl.Trainer = original  # type: ignore[misc]


CHECKS = {
    "machine": Check(machine, 60),
    **{
        f"speed:{model} {method} {execution}": Check(
            partial(speed, model, method, execution), 90 if execution == "compiled" else 30
        )
        for execution in EXECUTIONS
        for method in (["fixed"] if execution == "compiled" else METHODS)
        for model in MODELS
        if method in ("dense", "fixed") or model in ("resnet18", "resnet20")
    },
    **{f"abreast:{count}": Check(partial(abreast, count), 60) for count in ABREAST},
    "interrupted": Check(interrupted, 60),
    **({} if REHEARSE else {"full memory": Check(full_memory, 60)}),
    "two devices": Check(several_devices, 60),
    "tests": Check(tests, 120),
}

if __name__ == "__main__":
    Path(sys.argv[2]).write_text(json.dumps(CHECKS[sys.argv[1]].run()) + "\n")
