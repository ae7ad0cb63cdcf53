"""Where a result came from: the command, the machine, the versions, the commit."""

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

SLURM = "ERSPARSE_SLURM"  # the job, its node and how often it was put back, as JSON


def provenance() -> dict[str, Any]:
    """command, host, SLURM job (null outside one), versions and git, as run.json holds them."""
    return {
        "command": shlex.join([Path(sys.executable).stem.rstrip("0123456789."), *sys.argv]),
        "host": socket.gethostname(),
        "slurm": json.loads(os.environ.get(SLURM, "null")),
        "versions": {"python": platform.python_version(), "ersparse": _version("ersparse")}
        | {package: _version(package) for package in PACKAGES},
        "git": _git(),
    }


def machine(gpu: bool) -> str:
    """The processor, how many cores, and the GPU where one is used: "AMD EPYC, 2 cores, NVIDIA H100"."""
    words = [_processor(), f"{os.cpu_count()} cores"]
    if gpu:
        import torch

        words.append(torch.cuda.get_device_name())
    return ", ".join(words)


def _processor() -> str:
    """Linux alone tells the model's name, in a file."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def now() -> str:
    """UTC, to the second: 2026-11-23T10:00:00Z."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git() -> dict[str, Any] | None:
    """The commit of the code, and whether it was changed; None where it is not a checkout."""
    here = Path(__file__).resolve().parent
    environment = os.environ | {"GIT_OPTIONAL_LOCKS": "0"}

    def ask(*words: str) -> str:
        command = ["git", "-C", str(here), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True, env=environment, timeout=10).stdout

    try:
        return {"sha": ask("rev-parse", "HEAD").strip(), "dirty": bool(ask("status", "--porcelain", "-uno").strip())}
    except (OSError, subprocess.SubprocessError):
        return None
