"""Limits of the cluster, as its configuration states them. Imports no torch."""

from __future__ import annotations

import math
import re

from ersparse.sweep.durations import parse_duration
from ersparse.sweep.slurm.queue import run_slurm_command


def partition_time_limit(partition: str | None) -> float:
    """Return the longest time limit, in seconds, that a partition allows.

    Args:
        partition: name of a partition, or several names separated by commas, of which the shortest limit counts; None
            is the cluster's default partition.
    """
    limits = [math.inf]
    for line in run_slurm_command(["scontrol", "show", "partition", "--oneliner"]).splitlines():
        shown = dict(field.split("=", 1) for field in line.split() if "=" in field)
        if shown["PartitionName"] in (partition or "").split(",") or (not partition and shown["Default"] == "YES"):
            limits.append(math.inf if shown["MaxTime"] == "UNLIMITED" else parse_duration(shown["MaxTime"]))
    return min(limits)


def max_array_size() -> int:
    """Return how many jobs the cluster accepts in one array."""
    match = re.search(r"MaxArraySize\s*=\s*(\d+)", run_slurm_command(["scontrol", "show", "config"]))
    return max(1, int(match[1]) - 1) if match else 1000
