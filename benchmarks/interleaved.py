"""What every benchmark shares: things that take turns, and figures that are ratios within a round."""

from __future__ import annotations

import multiprocessing
import os
import resource
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection

import torch

Turn = Callable[[], None]
PROCESSOR = "BENCHMARKS_PROCESSOR_TIME"  # in the environment, which the players inherit


@dataclass(frozen=True)
class Figure:
    """Something measured.

    Attributes:
        what: is measured, or which ratio it is.
        values: one of each round.
        floor: what the hardware alone would allow, in the same unit.
        at_most: what it should be.
        unit: none for ratios.
    """

    what: str
    values: Sequence[float]
    floor: float | None = None
    at_most: float | None = None
    unit: str = ""

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def row(self) -> str:
        """As a row under HEAD; the gap is how many times the floor."""
        spread = f"{_shown(min(self.values))} to {_shown(max(self.values))}, n={len(self.values)}"
        floor, gap = (_shown(self.floor), _shown(self.median / self.floor)) if self.floor else ("", "")
        most = "" if self.at_most is None else _shown(self.at_most) + (" (missed)" if self.missed else "")
        return f"| {self.what} | {_shown(self.median)}{self.unit} ({spread}) | {floor} | {gap} | {most} |"

    @property
    def missed(self) -> bool:
        return self.at_most is not None and self.median > self.at_most


HEAD = "| what | median (range) | floor | gap | at most |\n|---|---|---|---|---|"


def ratio(what: str, over: Sequence[float], under: Sequence[float], **more: float | None) -> Figure:
    """The ratio of two that took turns, round by round."""
    return Figure(what, [a / b for a, b in zip(over, under, strict=True)], **more)  # type: ignore[arg-type]


def in_turns(parts: Mapping[str, Callable[[], object]], rounds: int, warm: int = 1) -> dict[str, list[float]]:
    """Seconds that each part took, in turns (A B C A B C ...); the first `warm` rounds are left out."""
    seconds: dict[str, list[float]] = {name: [] for name in parts}
    for number in range(warm + rounds):
        for name, part in parts.items():
            took = seconds_of(part)
            if number >= warm:
                seconds[name].append(took)
    return seconds


def seconds_of(part: Callable[[], object]) -> float:
    """How long it takes, the GPU's work included."""
    wait()
    began = now()
    part()
    wait()
    return now() - began


def now() -> float:
    """Seconds; those of the processor, of this process and of the children that it waited for, if PROCESSOR is set."""
    if PROCESSOR not in os.environ:
        return time.perf_counter()
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def wait() -> None:
    """Until the GPU has done what it was told to, if there is one."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


class Player:
    """A process that does `play(turn, *arguments)`, in which every `turn()` waits until it is its turn again.

    So several trainings can take turns step by step, each with its own loop, threads and memory.
    """

    def __init__(self, play: Callable[..., None], *arguments: object) -> None:
        context = multiprocessing.get_context("forkserver")  # which imports once what all of them need
        context.set_forkserver_preload(["torch._dynamo", "ersparse.runs.run", "ersparse.runs.train"])
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_play, args=(theirs, play, arguments), daemon=True)
        self.process.start()
        theirs.close()

    def turn(self) -> tuple[float, float]:
        """Lets it go on to its next `turn()`: the seconds that it took, and the most bytes that it held so far.

        Raises:
            EOFError: it ended, or failed; it has then said why.
        """
        self.pipe.send(None)
        return self.pipe.recv()

    def stop(self) -> None:
        self.process.kill()
        self.process.join()


def _play(pipe: Connection, play: Callable[..., None], arguments: Sequence[object]) -> None:
    began: float | None = None

    def turn() -> None:
        nonlocal began
        wait()
        if began is not None:
            pipe.send((now() - began, peak_bytes()))
        pipe.recv()
        began = now()

    play(turn, *arguments)


def peak_bytes() -> float:
    """The most memory that this process held, on the GPU where it uses one."""
    if torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated()
    return 1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def players_in_turns(players: Mapping[str, Player], rounds: int, warm: int) -> dict[str, list[tuple[float, float]]]:
    """What each player's turns came to, in turns, the first `warm` rounds left out; they are stopped in the end."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in players}
    try:
        for number in range(warm + rounds):
            for name, player in players.items():
                result = player.turn()
                if number >= warm:
                    found[name].append(result)
    finally:
        for player in players.values():
            player.stop()
    return found


def _shown(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}" if abs(value) < 1 else f"{value:.3f}"
