"""Worker processes that decode and transform images, shared by training and evaluation.

They are those of PyTorch's DataLoader, which hands over images through shared memory and notices a worker that dies.
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
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ersparse.data.streamed import StreamedPart
from ersparse.data.transforms import ImageTransform, image_seed
from ersparse.errors import RunFailed

CHUNK = 32  # images that a worker returns at a time
MOST_WORKERS = 16
BATCHES_AHEAD = 2
DEATH_WAIT = 5.0  # seconds until the end of a worker is known, after it has been noticed
SHARED_MEMORY = "/dev/shm"


class Request(NamedTuple):
    """Images to read.

    Attributes:
        part: number of the split.
        images: their numbers.
        epoch: in which they are seen; None for evaluation, which does not transform them.
    """

    part: int
    images: list[int]
    epoch: int | None


@dataclass(frozen=True)
class ImageReader(Dataset[Any]):
    """Reads images and transforms those of training.

    Attributes:
        parts: the images of each split: uint8 [N, height, width, C], or streamed.
        transform: of a training image; None leaves it.
        seed: data seed.
    """

    parts: Sequence[Tensor | StreamedPart]
    transform: ImageTransform | None
    seed: int

    def __getitem__(self, request: Request) -> Tensor | str:
        """Return images, uint8 [n, height, width, C], or the message of an error, which has to reach the main process.

        An exception would arrive with the traceback of the worker in its text.
        """
        try:
            return torch.stack(self._read(request))
        except RunFailed as error:
            return str(error)

    def _read(self, request: Request) -> list[Tensor]:
        part, transform = self.parts[request.part], self.transform
        if transform is None or request.epoch is None:
            return [part[image] if isinstance(part, Tensor) else part.read(image) for image in request.images]
        seeds = [image_seed(self.seed, request.epoch, image) for image in request.images]
        if isinstance(part, StreamedPart) and transform.scale:
            return _crops(part, transform, request.images, seeds)
        whole = (part[image] if isinstance(part, Tensor) else part.read(image) for image in request.images)
        return [transform(image, seed) for image, seed in zip(whole, seeds, strict=True)]


def _crops(part: StreamedPart, transform: ImageTransform, images: Sequence[int], seeds: Sequence[int]) -> list[Tensor]:
    """Return resized crops. All are chosen before the first image is decoded.

    Decoding replaces what is in the processor's cache, and choosing between two images would take three times as long.
    """
    opened = [part.open(image) for image in images]
    choices = [transform.choose(*one.size, seed) for one, seed in zip(opened, seeds, strict=True)]
    return [
        transform.finish(part.read_box(image, one, choice.box), choice)
        for image, one, choice in zip(images, opened, choices, strict=True)
    ]


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
    _loader: DataLoader[Any] | None = None

    def read(self, requests: Iterable[Request]) -> Iterator[Tensor]:
        """Yield the images of each request; an earlier iteration that has not ended is given up.

        Raises:
            RunFailed: an image is damaged, or a worker process has died.
        """
        results = map(self.reader.__getitem__, requests) if self.workers == 0 else self._from_workers(requests)
        for result in results:
            if isinstance(result, str):
                raise RunFailed(result)
            yield result

    def _from_workers(self, requests: Iterable[Request]) -> Iterator[Tensor | str]:
        self._requests[:] = [requests]
        try:
            if self._loader is None:
                self._loader = self._make_loader()
                before = set(multiprocessing.active_children())
                with _hidden_main():
                    results = iter(self._loader)
                self.processes = [child for child in multiprocessing.active_children() if child not in before]
            else:
                results = iter(self._loader)
            yield from results
        except (RuntimeError, OSError, EOFError) as error:
            # images that a worker sent before it died cannot be received either: their memory is fetched from it
            connection.wait([process.sentinel for process in self.processes], DEATH_WAIT)
            dead = [process for process in self.processes if process.exitcode not in (0, None)]
            if not dead and "exited unexpectedly" not in str(error):
                raise
            raise RunFailed(self._death(dead)) from None

    def _make_loader(self) -> DataLoader[Any]:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])
        ahead = -(-self.images_ahead // CHUNK)
        return DataLoader(
            self.reader,
            batch_size=None,
            sampler=_Sampler(self._requests),
            num_workers=self.workers,
            prefetch_factor=max(2, -(-ahead // self.workers)),
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
        self._loader = None  # its iterator ends them
        self.processes = []


class _Sampler:
    """Yields the requests of the present iteration; a DataLoader is bound to one sampler.

    Args:
        requests: a list of one, which the pool replaces.
    """

    def __init__(self, requests: list[Iterable[Request]]) -> None:
        self.requests = requests

    def __iter__(self) -> Iterator[Request]:
        return iter(self.requests[0])


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
