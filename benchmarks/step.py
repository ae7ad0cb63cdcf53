"""A training step: ersparse's own runs, a bare PyTorch loop, and the alternatives, step by step in turns.

ersparse's are whole runs, as `launch.py` makes them, with data, metrics and callbacks; their images are random. The
others train on one prepared batch and do nothing else. Each is a process of its own, which also gives its peak memory.
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
from benchmarks.hardware_limits import DEVICE, arithmetic, bandwidth
from benchmarks.interleaved import Figure, Player, Turn, players_in_turns, ratio
from benchmarks.networks import bfloat16, composed, settings_of
from ersparse.config.schema import Settings
from ersparse.data.batches import InMemoryDataLoader
from ersparse.runs.network import positions_of
from ersparse.runs.planner import make_plan

MODELS = ["resnet20", "resnet18", "vgg16", "resnet110"]
STEPS = 10 if DEVICE.type == "cuda" else 1  # of a turn: a GPU works ahead of its host
DELTA_T = 5 * STEPS  # so that every fifth turn has an update in it; what it takes is spread over 100 steps
WARM = 6  # turns, with an update among them
BATCH = 128

OURS = {
    "dense": ["sparsity=dense"],
    "fixed": ["sparsity=erk", "trainer.execution=masked"],
    "rigl": ["sparsity=erk", "method=rigl", f"method.delta_t={DELTA_T}"],
    "edge_popup": ["sparsity=uniform", "sparsity.level=0.5", "method=edge_popup", "method.final_sparsity=0.9"],
}
OURS |= {"edge_popup": [*OURS["edge_popup"], "method.levels=1", "method.epochs_per_level=1"]}


def ours(turn: Turn, words: list[str], threads: int) -> None:
    """A run of ersparse, of which every few training steps are a turn."""
    from ersparse import run

    torch.set_num_threads(threads)
    whole = InMemoryDataLoader.__iter__

    def in_turns(batches: InMemoryDataLoader) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        made = whole(batches)
        for number in range(len(batches)):
            if batches.seed is not None and number % STEPS == 0:  # only training has a seed
                turn()
            yield next(made)

    InMemoryDataLoader.__iter__ = in_turns  # type: ignore[method-assign]
    with redirect_stdout(io.StringIO()):
        run(composed(words))


def theirs(turn: Turn, kind: str, words: list[str], threads: int) -> None:
    """An alternative, likewise."""
    torch.set_num_threads(threads)
    step = ALTERNATIVES[kind](settings_of(words))
    while True:
        turn()
        for _ in range(STEPS):
            step()


def figures(asked: Namespace) -> Iterator[Figure]:
    if asked.rounds is not None and not any(map(_is_update, range(asked.rounds))):
        raise SystemExit(f"--rounds={asked.rounds}: too few for step, of which none would have an update; try 20")
    for model in asked.models or MODELS:
        with tempfile.TemporaryDirectory() as folder:
            yield from _of_model(model, Path(folder), asked.rounds or 20)


def _of_model(model: str, folder: Path, rounds: int) -> Iterator[Figure]:
    common = [f"model={model}", "dataset=cifar10", f"dataset.batch_size={BATCH}", f"dataset.root={folder}"]
    common += [f"paths.root={folder}", f"paths.cache={folder}"]
    write_images(folder / "cifar10.npz", (WARM + rounds + 1) * STEPS * BATCH)
    players = {}
    for name, words in OURS.items():
        epochs = [] if name == "edge_popup" else ["trainer.max_epochs=1"]
        players[name] = Player(ours, [*common, *words, *epochs], torch.get_num_threads())
    for name in ALTERNATIVES:
        if name != "rigl-torch" or find_spec("rigl_torch"):
            players[name] = Player(theirs, name, [*common, *OURS["rigl"]], torch.get_num_threads())
    turns = players_in_turns(players, rounds, WARM)
    seconds = {name: [took / STEPS for took, _ in found] for name, found in turns.items()}
    memory = {name: found[-1][1] for name, found in turns.items()}
    yield from _figures(model, settings_of(common), seconds, memory)


def _figures(
    model: str, settings: Settings, seconds: dict[str, list[float]], memory: dict[str, float]
) -> Iterator[Figure]:
    planned = make_plan(settings)
    weights = sum(layer.size for layer in planned.layers)
    positions = positions_of(planned.settings)
    operations = 6.0 * BATCH * sum(layer.size * positions[layer.name] for layer in planned.layers)
    rate = arithmetic(torch.bfloat16 if bfloat16(settings) else torch.float32)
    bare, dense = seconds["bare"], seconds["dense"]
    ordinary = {name: _without_updates(found) for name, found in seconds.items()}

    def over_dense(traffic: float) -> float:
        """The floor of a ratio to dense: so many bytes a weight more."""
        return 1 + traffic * weights / bandwidth() / statistics.median(dense)

    yield Figure(f"{model}: bare step", bare, operations / rate, unit=" s")
    yield Figure(f"{model}: dense, images/s", [BATCH / took for took in dense])
    yield Figure(f"{model}: dense, part of the arithmetic", [operations / rate / took for took in dense])
    yield ratio(f"{model}: dense / bare", dense, bare, floor=1.0, at_most=1.03)
    yield ratio(f"{model}: fixed / dense", seconds["fixed"], dense, floor=over_dense(9), at_most=1.01)
    rigl = ratio("", ordinary["rigl"], ordinary["fixed"]).values
    update = _update(seconds["rigl"]) / 100 / statistics.median(seconds["fixed"])
    yield Figure(f"{model}: rigl, ΔT = 100 / fixed", [each + update for each in rigl], 1.0, 1.02)
    yield ratio(f"{model}: edge_popup / dense", seconds["edge_popup"], dense, floor=over_dense(30), at_most=1.05)
    yield Figure(f"{model}: peak memory, fixed / dense", [memory["fixed"] / memory["dense"]], at_most=1.10)
    for name in ALTERNATIVES:
        if name == "rigl-torch" and name in seconds:
            spread = _update(seconds[name]) / 100 / statistics.median(bare)
            values = ratio("", ordinary[name], ordinary["bare"]).values
            yield Figure(f"{model}: {name}, ΔT = 100 / bare", [each + spread for each in values])
        elif name in seconds and name != "bare":
            yield ratio(f"{model}: {name} / bare", seconds[name], bare)


def _is_update(number: int) -> bool:
    """Whether the turn of that number, after the warm ones, ends with an update."""
    return (WARM + number + 1) % (DELTA_T // STEPS) == 0


def _without_updates(seconds: list[float]) -> list[float]:
    return [took for number, took in enumerate(seconds) if not _is_update(number)]


def _update(seconds: list[float]) -> float:
    """What an update takes, beyond the step that it belongs to: for a whole turn."""
    updates = [took for number, took in enumerate(seconds) if _is_update(number)]
    return STEPS * (statistics.median(updates) - statistics.median(_without_updates(seconds)))


def write_images(path: Path, count: int) -> None:
    random = np.random.default_rng(0)
    arrays = {}
    for part, images in (("train", count), ("test", BATCH)):
        arrays[f"x_{part}"] = random.integers(0, 256, (images, 32, 32, 3), dtype=np.uint8)
        arrays[f"y_{part}"] = np.arange(images) % 10
    np.savez(path, allow_pickle=False, **arrays)
