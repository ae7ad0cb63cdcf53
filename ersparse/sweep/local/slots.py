"""Who computes where: slots that each have GPUs or a share of the cores."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

FOREIGN = ("PL_", "MASTER_", "TORCHELASTIC_", "SLURM_")  # of a launcher that this process runs under
OWN = {
    "WORLD_SIZE", "RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "LOCAL_WORLD_SIZE", "ERSPARSE_RANK",
    "WANDB_RUN_ID", "WANDB_SERVICE",
}  # fmt: skip
GIB_EACH = 2.0


@dataclass(frozen=True)
class Slot:
    """Room for one process: a GPU (or a share of one), and cores."""

    cores: tuple[int, ...]
    gpu: str | None = None


def slots_of(slots: int | None, jobs_per_gpu: int, gpus: Sequence[str], cores: Sequence[int], gib: float) -> list[Slot]:
    """The slots of a machine with these GPUs, cores and memory.

    Jobs are spread over the GPUs before they share one; cores are shared out in runs of neighbours.

    Args:
        slots: how many; None is all that the GPUs take, or where there are none, one for each core that has 2 GiB.
    """
    places: list[str | None] = [gpu for _ in range(jobs_per_gpu) for gpu in gpus]
    if not gpus:
        places = [None] * (slots or max(1, min(len(cores), int(gib / GIB_EACH))))
    places = places[:slots]
    share = max(1, len(cores) // len(places))
    return [
        Slot(tuple(cores[(number * share + n) % len(cores)] for n in range(share)), gpu)
        for number, gpu in enumerate(places)
    ]


def room_for(devices: int, free: Sequence[Slot], slots: Sequence[Slot]) -> list[Slot] | None:
    """Free slots for a job of so many ranks: as many different GPUs, or as many shares of cores as there are.

    None: not yet.
    """
    if slots[0].gpu is None:
        wanted = min(devices, len(slots))
        return list(free[:wanted]) if len(free) >= wanted else None
    by_gpu: dict[str | None, Slot] = {}
    for slot in free:
        by_gpu.setdefault(slot.gpu, slot)
    return list(by_gpu.values())[:devices] if len(by_gpu) >= devices else None


def environment(outer: Mapping[str, str], slots: Sequence[Slot], devices: int) -> dict[str, str]:
    """What a job on these slots gets of the sweep's environment, and what it computes on."""
    kept = without_ranks(outer)
    threads = max(1, len(cores_of(slots)) // devices)
    if outer.get("OMP_NUM_THREADS", "").isdecimal():
        threads = min(threads, int(outer["OMP_NUM_THREADS"]))
    if slots[0].gpu is not None:
        kept["CUDA_VISIBLE_DEVICES"] = ",".join(str(slot.gpu) for slot in slots)
    return kept | {"OMP_NUM_THREADS": str(threads)}


def without_ranks(outer: Mapping[str, str]) -> dict[str, str]:
    """An environment without what launchers of ranks leave in it."""
    return {key: value for key, value in outer.items() if key not in OWN and not key.startswith(FOREIGN)}


def cores_of(slots: Sequence[Slot]) -> set[int]:
    return {core for slot in slots for core in slot.cores}


def this_machine() -> tuple[list[int], float]:
    """The cores that this process may use, and GiB of memory."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
    return cores, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


def visible_gpus(outer: Mapping[str, str]) -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    named = [name.strip() for name in outer.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return named[: torch.cuda.device_count()] or [str(number) for number in range(torch.cuda.device_count())]
