"""A training step of ersparse's runs, of a bare PyTorch loop, and of alternatives, interleaved step by step.

The trainings of ersparse are whole runs, as `launch.py` starts them, with data loading, metrics and callbacks, on
random images. The others train on one prepared batch and do nothing else. Each training is a process of its own, which
also measures its peak memory.
"""

from __future__ import annotations

import io
import statistics
import tempfile
from argparse import Namespace
from collections.abc import Iterator
from contextlib import redirect_stdout
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from benchmarks.alternatives import ALTERNATIVES
from benchmarks.hardware_limits import DEVICE, memory_bandwidth, peak_flops
from benchmarks.interleaved import Measurement, TurnCallback, TurnProcess, interleave_processes, ratio
from benchmarks.plain_steps import compose_config, settings_of, uses_bfloat16
from ersparse.config.schema import Settings
from ersparse.data.batches import InMemoryDataLoader
from ersparse.runs.network import positions_of
from ersparse.runs.planner import make_plan

MODELS = ["resnet20", "resnet18", "vgg16", "resnet110"]
STEPS = 10 if DEVICE.type == "cuda" else 1  # training steps per turn: a GPU runs asynchronously to its host
DELTA_T = 5 * STEPS  # every fifth turn contains an update, whose cost is then attributed to 100 steps
WARMUP = 6  # turns, which include an update
BATCH = 128  # images

CONFIGS = {
    "dense": ["sparsity=dense"],
    "fixed": ["sparsity=erk", "trainer.execution=masked"],
    "rigl": ["sparsity=erk", "method=rigl", f"method.delta_t={DELTA_T}"],
    "edge_popup": [
        "sparsity=uniform", "sparsity.level=0.5", "method=edge_popup", "method.final_sparsity=0.9", "method.levels=1",
        "method.epochs_per_level=1",
    ],
}  # fmt: skip


def train_ersparse(turn: TurnCallback, overrides: list[str], threads: int) -> None:
    """Execute a run of ersparse, of which every `STEPS` training steps are a turn."""
    from ersparse import run

    torch.set_num_threads(threads)
    iterate = InMemoryDataLoader.__iter__

    def iterate_in_turns(loader: InMemoryDataLoader) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        batches = iterate(loader)
        for number in range(len(loader)):
            if loader.plan.seed is not None and number % STEPS == 0:  # only the training data are shuffled by a seed
                turn()
            yield next(batches)

    InMemoryDataLoader.__iter__ = iterate_in_turns  # type: ignore[method-assign]
    with redirect_stdout(io.StringIO()):
        run(compose_config(overrides))


def train_alternative(turn: TurnCallback, name: str, overrides: list[str], threads: int) -> None:
    """Train by an alternative for ever, of which every `STEPS` training steps are a turn."""
    torch.set_num_threads(threads)
    step = ALTERNATIVES[name](settings_of(overrides))
    while True:
        turn()
        for _ in range(STEPS):
            step()


def measure(arguments: Namespace) -> Iterator[Measurement]:
    """Yield the measurements of all models."""
    if arguments.rounds is not None and not any(map(_is_update, range(arguments.rounds))):
        raise SystemExit(f"--rounds={arguments.rounds}: step needs a round with a rewiring update; must be at least 4")
    for model in arguments.models or MODELS:
        with tempfile.TemporaryDirectory() as folder:
            yield from _measure_model(model, Path(folder), arguments.rounds or 20)


def _measure_model(model: str, folder: Path, rounds: int) -> Iterator[Measurement]:
    common = [f"model={model}", "dataset=cifar10", f"dataset.batch_size={BATCH}", f"dataset.root={folder}"]
    common += [f"paths.root={folder}", f"paths.cache={folder}"]
    write_random_images(folder / "cifar10.npz", (WARMUP + rounds + 1) * STEPS * BATCH)
    turns = interleave_processes(_start_processes(common), rounds, WARMUP)
    seconds = {name: [elapsed / STEPS for elapsed, _ in results] for name, results in turns.items()}
    memory = {name: results[-1][1] for name, results in turns.items()}
    settings = settings_of(common)
    yield from _compare_with_bare_loop(model, settings, seconds)
    yield from _compare_methods(model, settings, seconds)
    yield Measurement(f"{model}: peak memory, fixed / dense", [memory["fixed"] / memory["dense"]], at_most=1.10)
    yield from _compare_alternatives(model, seconds)


def _start_processes(common: list[str]) -> dict[str, TurnProcess]:
    threads = torch.get_num_threads()
    processes = {}
    for name, overrides in CONFIGS.items():
        epochs = [] if name == "edge_popup" else ["trainer.max_epochs=1"]
        processes[name] = TurnProcess(train_ersparse, [*common, *overrides, *epochs], threads)
    for name in ALTERNATIVES:
        if name != "rigl-torch" or find_spec("rigl_torch"):
            processes[name] = TurnProcess(train_alternative, name, [*common, *CONFIGS["rigl"]], threads)
    return processes


def _compare_with_bare_loop(model: str, settings: Settings, seconds: dict[str, list[float]]) -> Iterator[Measurement]:
    layers, positions = make_plan(settings).layers, positions_of(settings)
    flops = 6.0 * BATCH * sum(layer.size * positions[layer.name] for layer in layers)
    floor = flops / peak_flops(torch.bfloat16 if uses_bfloat16(settings) else torch.float32)
    bare, dense = seconds["bare"], seconds["dense"]
    yield Measurement(f"{model}: bare step", bare, floor, unit=" s")
    yield Measurement(f"{model}: dense, images/s", [BATCH / elapsed for elapsed in dense])
    yield Measurement(f"{model}: dense, part of the arithmetic", [floor / elapsed for elapsed in dense])
    yield ratio(f"{model}: dense / bare", dense, bare, floor=1.0, at_most=1.03)


def _compare_methods(model: str, settings: Settings, seconds: dict[str, list[float]]) -> Iterator[Measurement]:
    weights = sum(layer.size for layer in make_plan(settings).layers)
    dense = seconds["dense"]

    def floor(bytes_per_weight: float) -> float:
        """Return the floor of a ratio to dense for so much additional memory traffic."""
        return 1 + bytes_per_weight * weights / memory_bandwidth() / statistics.median(dense)

    yield ratio(f"{model}: fixed / dense", seconds["fixed"], dense, floor=floor(18), at_most=1.01)
    values = _with_update_every_100_steps(seconds["rigl"], seconds["fixed"])
    yield Measurement(f"{model}: rigl, ΔT = 100 / fixed", values, 1.0, 1.02)
    yield ratio(f"{model}: edge_popup / dense", seconds["edge_popup"], dense, floor=floor(30), at_most=1.05)


def _compare_alternatives(model: str, seconds: dict[str, list[float]]) -> Iterator[Measurement]:
    bare = seconds["bare"]
    for name in ALTERNATIVES:
        if name == "rigl-torch" and name in seconds:
            yield Measurement(f"{model}: {name}, ΔT = 100 / bare", _with_update_every_100_steps(seconds[name], bare))
        elif name in seconds and name != "bare":
            yield ratio(f"{model}: {name} / bare", seconds[name], bare)


def _with_update_every_100_steps(seconds: list[float], reference: list[float]) -> list[float]:
    """Return the ratio of a rewired training to a reference, with the cost of an update spread over 100 steps."""
    update = _update_seconds(seconds) / 100 / statistics.median(reference)
    return [value + update for value in ratio("", _without_updates(seconds), _without_updates(reference)).values]


def _is_update(number: int) -> bool:
    """Return whether the turn of this number, counted after the warm-up, ends with a rewiring update."""
    return (WARMUP + number + 1) % (DELTA_T // STEPS) == 0


def _without_updates(seconds: list[float]) -> list[float]:
    return [elapsed for number, elapsed in enumerate(seconds) if not _is_update(number)]


def _update_seconds(seconds: list[float]) -> float:
    """Return the seconds of an update in addition to those of its turn, which has `STEPS` steps."""
    updates = [elapsed for number, elapsed in enumerate(seconds) if _is_update(number)]
    return STEPS * (statistics.median(updates) - statistics.median(_without_updates(seconds)))


def write_random_images(path: Path, count: int) -> None:
    """Write a data set with the shapes of CIFAR-10, and `count` training images, as an npz file."""
    random = np.random.default_rng(0)
    arrays = {}
    for part, images in (("train", count), ("test", BATCH)):
        arrays[f"x_{part}"] = random.integers(0, 256, (images, 32, 32, 3), dtype=np.uint8)
        arrays[f"y_{part}"] = np.arange(images) % 10
    np.savez(path, allow_pickle=False, **arrays)
