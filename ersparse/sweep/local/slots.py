"""Slots: the shares of this machine's GPUs and cores on which jobs run."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ersparse.distributed.other_launchers import without_rank_variables
from ersparse.errors import UserError

GIB_PER_JOB = 2.0


@dataclass(frozen=True)
class Slot:
    """Resources of one process.

    Attributes:
        cores: IDs of its cores.
        gpu: its GPU, which slots may share, as CUDA_VISIBLE_DEVICES names it; None on a machine without GPUs.
    """

    cores: tuple[int, ...]
    gpu: str | None = None


def make_slots(
    count: int | None,
    jobs_per_gpu: int,
    gpus: Sequence[str],
    cores: Sequence[int],
    memory: float,
    needed: int | None = None,
) -> list[Slot]:
    """Divide a machine into slots.

    Jobs are spread over the GPUs before they share one. Each slot has adjacent cores, and as many as any other: results
    may depend on the number of threads, and must not depend on the slot that a job happens to get.

    Args:
        count: number of slots; None is `jobs_per_gpu` for each GPU, or, without GPUs, one for each core that has
            2 GiB of memory.
        jobs_per_gpu: number of slots that share a GPU.
        gpus: names of the GPUs.
        cores: IDs of the cores.
        memory: in GiB.
        needed: number of slots that all jobs together can use; None is no limit. Fewer slots have more cores each.
    """
    places: list[str | None] = [gpu for _ in range(jobs_per_gpu) for gpu in gpus]
    if not gpus:
        places = [None] * (count or max(1, min(len(cores), int(memory / GIB_PER_JOB))))
    places = places[:count][:needed]
    share = max(1, len(cores) // len(places))
    return [
        Slot(tuple(cores[(number * share + n) % len(cores)] for n in range(share)), gpu)
        for number, gpu in enumerate(places)
    ]


def allocate(devices: int, free: Sequence[Slot], slots: Sequence[Slot]) -> list[Slot] | None:
    """Return free slots for a job, or None if there are not enough at the moment.

    With GPUs, each rank gets a different GPU. Without, ranks share the slots if there are fewer of them.

    Args:
        devices: number of ranks of the job.
        free: slots without a job.
        slots: all slots.
    """
    if slots[0].gpu is None:
        wanted = min(devices, len(slots))
        return list(free[:wanted]) if len(free) >= wanted else None
    by_gpu: dict[str | None, Slot] = {}
    for slot in free:
        by_gpu.setdefault(slot.gpu, slot)
    return list(by_gpu.values())[:devices] if len(by_gpu) >= devices else None


def job_environment(environment: Mapping[str, str], slots: Sequence[Slot], devices: int) -> dict[str, str]:
    """Return the environment of a job: that of the sweep, with the GPUs and the number of threads of its slots.

    Args:
        environment: of the sweep.
        slots: of the job.
        devices: number of ranks, which share the cores of the slots.
    """
    own = without_rank_variables(environment)
    threads = max(1, len(cores_of(slots)) // devices)
    if environment.get("OMP_NUM_THREADS", "").isdecimal():
        threads = min(threads, int(environment["OMP_NUM_THREADS"]))
    if slots[0].gpu is not None:
        own["CUDA_VISIBLE_DEVICES"] = ",".join(str(slot.gpu) for slot in slots)
    return own | {"OMP_NUM_THREADS": str(threads)}


def cores_of(slots: Sequence[Slot]) -> set[int]:
    return {core for slot in slots for core in slot.cores}


def machine_resources() -> tuple[list[int], float]:
    """Return the IDs of the cores that this process may use, and the memory of this machine in GiB."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
    return cores, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


def visible_gpus(environment: Mapping[str, str]) -> list[str]:
    """Return the GPUs, or the MIG instances, that this process may use, as CUDA_VISIBLE_DEVICES names them.

    CUDA shows a process one MIG instance only, however many the variable names, so they are not counted by PyTorch.
    """
    import torch

    names = [name.strip() for name in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    if any(name.startswith("MIG-") for name in names):
        return [name for name in names if name.startswith("MIG-")]
    count = torch.cuda.device_count()
    if names or not count:
        return names[:count]
    return _mig_instances() or [str(number) for number in range(count)]


def with_uuids(gpus: Sequence[str]) -> list[str]:
    """Return the names of GPUs with numbers replaced by UUIDs, where nvidia-smi knows them."""
    uuids = dict(_nvidia_smi("--query-gpu=index,uuid", "--format=csv,noheader", pattern=r"(\d+), (GPU-\S+)"))
    return [uuids.get(name, name) for name in gpus]


def refuse_sharing_exclusive_gpus(jobs_per_gpu: int, environment: Mapping[str, str]) -> None:
    """Check that several jobs may use a GPU at a time: one in mode Exclusive_Process admits a single process.

    Raises:
        UserError: a GPU admits one process, and no MPS daemon shares it.
    """
    if jobs_per_gpu == 1 or "CUDA_MPS_PIPE_DIRECTORY" in environment:
        return
    for index, mode in _nvidia_smi("--query-gpu=index,compute_mode", "--format=csv,noheader", pattern=r"(\d+), (\w+)"):
        if mode == "Exclusive_Process":
            raise UserError(
                f"hydra.launcher.jobs_per_gpu={jobs_per_gpu}: must be 1, since GPU {index} is in compute mode "
                "Exclusive_Process, or the jobs must share it by MPS (CUDA_MPS_PIPE_DIRECTORY)"
            )


def _nvidia_smi(*arguments: str, pattern: str) -> list[Any]:
    """Return the matches of a pattern in what nvidia-smi prints; empty without the tool."""
    try:
        listed = subprocess.run(
            ["nvidia-smi", *arguments], capture_output=True, encoding="utf-8", errors="replace", timeout=20
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return re.findall(pattern, listed)


def _mig_instances() -> list[str]:
    """Return the MIG instances of all GPUs, as `nvidia-smi -L` lists them; empty if there are none."""
    return _nvidia_smi("-L", pattern=r"UUID: (MIG-[^)\s]+)")
