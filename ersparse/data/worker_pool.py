"""Worker processes that decode and transform images, shared by training and evaluation.

They are those of PyTorch's DataLoader, which notices a worker that dies, and write images into memory that is shared.
They are started by a fork server: forking a process with threads, or one that uses a GPU, may hang, and workers would
share the pages of its Python objects until they touch them.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import types
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from ersparse.data.image_reader import CHUNK, SHARED_MEMORY, ImageReader, Request, SharedImages
from ersparse.errors import RunFailed

MOST_WORKERS = 16
BATCHES_AHEAD = 2
DEATH_WAIT = 5.0  # seconds until the end of a worker is known, after it has been noticed


@dataclass
class WorkerPool:
    """Reads images in worker processes, in the order in which they are asked for.

    Attributes:
        reader: what the workers run.
        workers: their number; 0 reads in this process.
        images_ahead: images that are read before they are needed.
        processes: the worker processes, once there are any.
    """

    reader: ImageReader
    workers: int
    images_ahead: int
    processes: list[BaseProcess] = field(default_factory=list)
    _requests: list[Iterable[Request]] = field(default_factory=list)
    _shared: SharedImages | None = None
    _loader: DataLoader[Any] | None = None

    def read(self, requests: Iterable[Request]) -> Iterator[Tensor]:
        """Yield the images of each request, in memory that is overwritten once the next ones are asked for.

        An earlier iteration that has not ended is given up.

        Raises:
            RunFailed: an image is damaged, or a worker process has died.
        """
        results = map(self.reader.read, requests) if self.workers == 0 else self._from_workers(requests)
        for result in results:
            if isinstance(result, str):
                raise RunFailed(result)
            yield result

    def _from_workers(self, requests: Iterable[Request]) -> Iterator[Tensor | str]:
        self._requests[:] = [requests]
        if self._shared is None:
            slots = self._requests_ahead() * self.workers + 1  # one is being used
            self._shared = SharedImages.of(self.reader, slots)
        try:
            for number, found in enumerate(self._results(self._shared)):
                yield found if isinstance(found, str) else self._shared.of_request(number, found)
        except (RuntimeError, OSError, EOFError) as error:
            # what a DataLoader raises does not say how the worker ended, which may not be known yet
            connection.wait([process.sentinel for process in self.processes], DEATH_WAIT)
            dead = [process for process in self.processes if process.exitcode not in (0, None)]
            if not dead and "exited unexpectedly" not in str(error):
                raise
            raise RunFailed(self._death(dead)) from None

    def _results(self, shared: SharedImages) -> Iterator[int | str]:
        """Return what the workers return for each request, and start them if there are none."""
        if self._loader is not None:
            return iter(self._loader)
        self._loader = self._make_loader(shared)
        before = set(multiprocessing.active_children())
        with _hidden_main():
            results = iter(self._loader)
        self.processes = [child for child in multiprocessing.active_children() if child not in before]
        return results

    def _requests_ahead(self) -> int:
        """Return how many requests each worker has at a time."""
        return max(2, -(-self.images_ahead // CHUNK // self.workers))

    def _make_loader(self, shared: SharedImages) -> DataLoader[Any]:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])
        return DataLoader(
            shared,
            batch_size=None,
            sampler=_Sampler(self._requests),
            num_workers=self.workers,
            prefetch_factor=self._requests_ahead(),
            persistent_workers=True,
            multiprocessing_context=context,
            worker_init_fn=_prepare_worker,
            generator=torch.Generator(),  # or PyTorch's own is drawn from, and results depend on the workers
        )

    def _death(self, dead: Sequence[BaseProcess]) -> str:
        line = f"dataset.workers={self.workers}: a worker process that decodes images has died"
        if not dead:
            return line
        code = dead[0].exitcode or 0
        cause = f"by signal {-code} ({signal.Signals(-code).name})" if code < 0 else f"with status {code}"
        hint = {signal.SIGKILL: ", as when memory is full", signal.SIGBUS: f", as when {SHARED_MEMORY} is full"}
        return f"{line}: process {dead[0].pid} ended {cause}{hint.get(-code, '')}"  # type: ignore[call-overload]

    def close(self) -> None:
        """End the worker processes."""
        self._loader = self._shared = None  # its iterator ends them
        self.processes = []


class _Sampler:
    """Yields the requests of the present iteration, numbered; a DataLoader is bound to one sampler.

    Args:
        requests: a list of one, which the pool replaces.
    """

    def __init__(self, requests: list[Iterable[Request]]) -> None:
        self.requests = requests

    def __iter__(self) -> Iterator[tuple[int, Request]]:
        return enumerate(self.requests[0])


def worker_count(asked: int | str, ranks: int, on_gpu: bool) -> int:
    """Return the number of worker processes of a rank.

    `auto` is this rank's share of the cores that the process may use. On a CPU it is half of them, since training needs
    them as well. At least one is used, and at most `MOST_WORKERS`.

    Args:
        asked: `dataset.workers`.
        ranks: number of ranks on this machine.
        on_gpu: whether the network is trained on a GPU.
    """
    if not isinstance(asked, str):
        return asked
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(MOST_WORKERS, max(1, cores // ranks // (1 if on_gpu else 2)))


def _prepare_worker(_: int) -> None:
    """Ignore the signals that a terminal or a scheduler sends to all processes: the main process ends the workers."""
    for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_main_process, daemon=True).start()


def _end_with_main_process() -> None:
    """End this process when the main process has ended, even if it was killed; the fork server then ends as well."""
    main = multiprocessing.parent_process()
    if main:
        connection.wait([main.sentinel])
        os._exit(1)


@contextmanager
def _hidden_main() -> Iterator[None]:
    """Hide the main module, which new processes would import: a script without a guard would start another run."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
