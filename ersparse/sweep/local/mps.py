"""NVIDIA's Multi-Process Service (MPS): kernels of jobs that share a GPU run at the same time, and not in turns."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

log = logging.getLogger("ersparse")

CONTROL = "nvidia-cuda-mps-control"
PIPES = "CUDA_MPS_PIPE_DIRECTORY"  # by this variable processes find the daemon
TIMEOUT = 20.0  # seconds for the daemon to start, and to stop


def can_share(jobs_per_gpu: int, gpus: Sequence[str], environment: Mapping[str, str]) -> bool:
    """Return whether a daemon of the sweep's own may share its GPUs.

    There has to be something to share and NVIDIA's tool. A daemon that is there already is used as it is, and MIG
    instances, each of which would need a daemon, are shared without one.
    """
    is_mig = any(name.startswith("MIG-") for name in gpus)
    return jobs_per_gpu > 1 and bool(gpus) and not is_mig and PIPES not in environment and bool(shutil.which(CONTROL))


@contextmanager
def shared_gpus(wanted: bool, gpus: Sequence[str]) -> Iterator[dict[str, str]]:
    """Run a daemon during the `with` block, and yield the environment variables with which processes use it.

    Without a daemon the GPU takes turns between processes, and there are no variables; a line says why.

    Args:
        wanted: whether to start one.
        gpus: the GPUs as CUDA_VISIBLE_DEVICES names them. The daemon takes no others if these are UUIDs; by number,
            processes would count from the first of the daemon's.
    """
    if not wanted:
        yield {}
        return
    with tempfile.TemporaryDirectory(prefix="ersparse-mps-") as folder:
        own = {PIPES: folder, "CUDA_MPS_LOG_DIRECTORY": folder}
        others = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
        by_uuid = all(name.startswith("GPU-") for name in gpus)
        environment = others | own | ({"CUDA_VISIBLE_DEVICES": ",".join(gpus)} if by_uuid else {})
        if reason := _failure([CONTROL, "-d"], environment):
            log.warning("hydra.launcher.mps=auto: %s does not start (%s); jobs take turns on a GPU", CONTROL, reason)
            yield {}
            return
        try:
            yield own
        finally:
            if reason := _failure([CONTROL], environment, "quit\n"):
                log.warning("%s does not stop (%s)", CONTROL, reason)


def _failure(command: list[str], environment: Mapping[str, str], said: str = "") -> str:
    """Run a command, and return why it has failed; "" if it has not."""
    try:
        # a file, because the daemon keeps the streams of the command that starts it, and a pipe would never end
        with tempfile.TemporaryFile("w+", encoding="utf-8") as output:
            done = subprocess.run(
                command,
                env=dict(environment),
                input=said,
                stdout=output,
                stderr=output,
                encoding="utf-8",
                timeout=TIMEOUT,
            )
            output.seek(0)
            lines = output.read().strip().splitlines()
    except (OSError, subprocess.SubprocessError) as error:
        return str(error)
    return "" if done.returncode == 0 else (lines or [f"status {done.returncode}"])[-1]
