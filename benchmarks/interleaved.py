"""Interleaved measurement: alternatives run in the order A B C A B C ..., and ratios are computed within a round.

Interleaving cancels slow changes of the machine's speed, which affect all alternatives of a round alike.
"""

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

TurnCallback = Callable[[], None]
PROCESSOR_TIME = "BENCHMARKS_PROCESSOR_TIME"  # environment variable, inherited by child processes
TABLE_HEADER = "| what | median (range) | floor | gap | at most |\n|---|---|---|---|---|"


@dataclass(frozen=True)
class Measurement:
    """A measured time, rate or ratio; the fields are those of the JSON output.

    Attributes:
        what: description of the quantity or ratio.
        values: one value per round.
        floor: lower bound given by the hardware, in the same unit.
        at_most: target for the median.
        unit: empty for ratios.
    """

    what: str
    values: Sequence[float]
    floor: float | None = None
    at_most: float | None = None
    unit: str = ""

    @property
    def median(self) -> float:
        """Median over the rounds."""
        return statistics.median(self.values)

    @property
    def missed(self) -> bool:
        """Whether the median exceeds the target."""
        return self.at_most is not None and self.median > self.at_most

    def row(self) -> str:
        """Return a row of the table under `TABLE_HEADER`; the gap is the median divided by the floor."""
        spread = f"{_format(min(self.values))} to {_format(max(self.values))}, n={len(self.values)}"
        floor, gap = (_format(self.floor), _format(self.median / self.floor)) if self.floor else ("", "")
        target = "" if self.at_most is None else _format(self.at_most) + (" (missed)" if self.missed else "")
        return f"| {self.what} | {_format(self.median)}{self.unit} ({spread}) | {floor} | {gap} | {target} |"


def ratio(what: str, numerator: Sequence[float], denominator: Sequence[float], **fields: float | None) -> Measurement:
    """Return the ratio of two interleaved measurements, round by round; `fields` are those of `Measurement`."""
    return Measurement(what, [a / b for a, b in zip(numerator, denominator, strict=True)], **fields)  # type: ignore[arg-type]


def interleave(parts: Mapping[str, Callable[[], object]], rounds: int, warmup: int = 1) -> dict[str, list[float]]:
    """Call the parts in turn for `warmup` + `rounds` rounds, and return the seconds of each after the warm-up."""
    seconds: dict[str, list[float]] = {name: [] for name in parts}
    for number in range(warmup + rounds):
        for name, part in parts.items():
            elapsed = seconds_of(part)
            if number >= warmup:
                seconds[name].append(elapsed)
    return seconds


def seconds_of(part: Callable[[], object]) -> float:
    """Return the seconds that a call takes, including its asynchronous work on a GPU."""
    synchronize()
    start = now()
    part()
    synchronize()
    return now() - start


def now() -> float:
    """Return a time in seconds: wall-clock, or processor time of this process and its finished children.

    The environment variable `PROCESSOR_TIME` selects processor time.
    """
    if PROCESSOR_TIME not in os.environ:
        return time.perf_counter()
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def synchronize() -> None:
    """Wait for the GPU, if this process uses one."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


class TurnProcess:
    """A process that runs `target(turn, *arguments)`, where each call of `turn()` blocks until its next turn.

    Several trainings can thus be interleaved step by step, each with its own training loop, threads and memory.
    """

    def __init__(self, target: Callable[..., None], *arguments: object) -> None:
        context = multiprocessing.get_context("forkserver")  # imports once what all processes need
        context.set_forkserver_preload(["torch._dynamo", "ersparse.runs.run", "ersparse.runs.train"])
        self.pipe, child_pipe = context.Pipe()
        self.process = context.Process(target=_run_in_turns, args=(child_pipe, target, arguments), daemon=True)
        self.process.start()
        child_pipe.close()

    def turn(self) -> tuple[float, float]:
        """Let the process continue to its next `turn()`, and return the seconds and its peak memory in bytes so far.

        Raises:
            EOFError: the process has ended or failed; its traceback has been printed.
        """
        self.pipe.send(None)
        return self.pipe.recv()

    def stop(self) -> None:
        """Kill the process."""
        self.process.kill()
        self.process.join()


def _run_in_turns(pipe: Connection, target: Callable[..., None], arguments: Sequence[object]) -> None:
    start: float | None = None

    def turn() -> None:
        nonlocal start
        synchronize()
        if start is not None:
            pipe.send((now() - start, peak_bytes()))
        pipe.recv()
        start = now()

    target(turn, *arguments)


def peak_bytes() -> float:
    """Return the peak memory of this process in bytes, on the GPU if it uses one."""
    if torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated()
    return 1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def interleave_processes(
    processes: Mapping[str, TurnProcess], rounds: int, warmup: int
) -> dict[str, list[tuple[float, float]]]:
    """Give each process its turns, return (seconds, peak bytes) of each turn after the warm-up, and stop them."""
    results: dict[str, list[tuple[float, float]]] = {name: [] for name in processes}
    try:
        for number in range(warmup + rounds):
            for name, process in processes.items():
                result = process.turn()
                if number >= warmup:
                    results[name].append(result)
    finally:
        for process in processes.values():
            process.stop()
    return results


def _format(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}" if abs(value) < 1 else f"{value:.3f}"
