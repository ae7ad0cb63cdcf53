"""Errors of a GPU that are no errors of the code: its memory is full, or it has failed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ersparse.config.schema import Settings
from ersparse.errors import RunFailed
from ersparse.runs.console import log

FAULTS = (  # phrases of CUDA's messages about hardware, and about GPUs that other processes occupy
    "uncorrectable ecc error", "nvlink", "hardware stack error", "devices are busy or unavailable",
    "fallen off the bus", "no cuda-capable device is detected", "system not yet initialized", "gpu is lost",
    "mps server", "mps client",
)  # fmt: skip


@contextmanager
def device_errors(settings: Settings) -> Iterator[None]:
    """Turn errors of a GPU during the `with` block into outcomes of the run.

    Raises:
        RunFailed: its memory is full; one line says what to reduce.
        KeyboardInterrupt: it has failed or is occupied: the run counts as interrupted, resumes with the same command,
            and is requeued on a cluster.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        reason = str(error).partition(". GPU")[0].removesuffix(".")
        raise RunFailed(
            f"dataset.batch_size={settings.dataset.batch_size}: the memory of the GPU is full ({reason}); must be "
            "smaller, or fewer jobs must share the GPU (hydra.launcher.jobs_per_gpu)"
        ) from None
    except RuntimeError as error:
        if not is_fault(error):
            raise
        log.error(f"the GPU has failed or is occupied: {str(error).splitlines()[0]}")
        raise KeyboardInterrupt from error


def is_fault(error: BaseException) -> bool:
    """Return whether CUDA reports a fault of the hardware, or a GPU that is not available."""
    message = str(error).lower()
    return isinstance(error, RuntimeError) and "cuda" in message and any(phrase in message for phrase in FAULTS)
