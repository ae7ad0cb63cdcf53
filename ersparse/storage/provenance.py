"""Provenance of a result: command, host, package versions and Git commit."""

from __future__ import annotations

import json
import os
import platform
import shlex
import socket
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "torchvision", "pytorch-lightning", "hydra-core", "torchmetrics", "numpy", "scipy")

SLURM = "ERSPARSE_SLURM"  # environment variable with the job, its node and its number of requeues, as JSON


def provenance() -> dict[str, Any]:
    """Return the entries "command", "host", "slurm" (None outside a SLURM job), "versions" and "git" of run.json."""
    return {
        "command": shlex.join([Path(sys.executable).stem.rstrip("0123456789."), *sys.argv]),
        "host": socket.gethostname(),
        "slurm": json.loads(os.environ.get(SLURM, "null")),
        "versions": {"python": platform.python_version(), "ersparse": _version("ersparse")}
        | {package: _version(package) for package in PACKAGES},
        "git": _git(),
    }


def machine(gpu: bool) -> str:
    """Return a description of the hardware, for example "AMD EPYC, 2 cores, NVIDIA H100".

    Args:
        gpu: whether to name the current GPU.
    """
    words = [_processor(), f"{os.cpu_count()} cores"]
    if gpu:
        import torch

        words.append(torch.cuda.get_device_name())
    return ", ".join(words)


def gpu_versions() -> dict[str, Any]:
    """Return the versions of CUDA and cuDNN that PyTorch uses, and of the driver; None where one is not known."""
    import torch

    cudnn = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
    return {"cuda": torch.version.cuda, "cudnn": cudnn and str(cudnn), "driver": _driver_version()}


def _driver_version() -> str | None:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        listed = subprocess.run(
            command, capture_output=True, encoding="utf-8", errors="replace", check=True, timeout=20
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return listed.partition("\n")[0].strip() or None


def _processor() -> str:
    """Return the processor's model name, which only Linux reports."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def now() -> str:
    """Return the time in UTC, to the second: "2026-11-23T10:00:00Z"."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git() -> dict[str, Any] | None:
    """Return the commit of the code and whether files differ from it; None if the code is not a Git checkout."""
    here = Path(__file__).resolve().parent
    environment = os.environ | {"GIT_OPTIONAL_LOCKS": "0"}

    def ask(*words: str) -> str:
        command = ["git", "-C", str(here), *words]
        return subprocess.run(
            command, capture_output=True, encoding="utf-8", errors="replace", check=True, env=environment, timeout=10
        ).stdout

    try:
        return {"sha": ask("rev-parse", "HEAD").strip(), "dirty": bool(ask("status", "--porcelain", "-uno").strip())}
    except (OSError, subprocess.SubprocessError):
        return None
