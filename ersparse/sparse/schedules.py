"""Schedules of density and drop fraction over training."""

from __future__ import annotations

import math


def annealed_density(start: float, end: float, level: int, levels: int, schedule: str) -> float:
    """Return the density p_t of level t, between that of the source network p_0 and the final one p_T.

    Args:
        start: density p_0 of the source network.
        end: final density p_T.
        level: level t, in [1, levels].
        levels: number of levels L.
        schedule: "geometric" is p_0 (p_T / p_0)^(t/L); "linear" takes equal steps; "code" is the schedule of the
            paper's released code, 0.6 (p_T / 0.6)^(t/L) clipped to [p_T, p_0].
    """
    part = level / levels
    if schedule == "linear":
        return start + (end - start) * part
    if schedule == "code":
        return min(max(0.6 * math.pow(end / 0.6, part), end), start)
    return start * math.pow(end / start, part)


def drop_fraction(start: float, end: float, part: float, decay: str) -> float:
    """Return the fraction of a layer's active weights that an update drops.

    Args:
        start: fraction at the start of training.
        end: fraction when rewiring stops.
        part: elapsed part of the time between the two, in [0, 1].
        decay: "constant" keeps `start`; "linear"; "cosine" follows half a period, which with `end` = 0 is RigL's
            schedule (Evci et al. 2020, section 3).
    """
    left = {"constant": 1.0, "linear": 1 - part, "cosine": (1 + math.cos(math.pi * part)) / 2}[decay]
    return end + (start - end) * left


def pruned_density(start: float, end: float, part: float, schedule: str, cycles: int = 1) -> float:
    """Return the global density during gradual pruning.

    Args:
        start: realised density when pruning begins.
        end: density when pruning stops.
        part: elapsed part of the pruning time, in [0, 1].
        schedule: "constant" keeps `start`; "cubic" is end + (start - end) (1 - part)^3 (Zhu & Gupta 2018, eq. 1;
            GraNet, Liu et al. 2021b); "cyclic" falls from `start` to `end` in each of `cycles` cycles and rises again
            between them, along a cosine: end + (start - end) (1 + cos((2 cycles - 1) pi part)) / 2.
        cycles: number of cycles.
    """
    if schedule == "cyclic":
        return end + (start - end) * (1 + math.cos((2 * cycles - 1) * math.pi * part)) / 2
    return start if schedule == "constant" else end + (start - end) * (1 - part) ** 3


def compressed(epochs: int, phases: int, dense_first: float, sparse_last: float, epoch: int) -> bool:
    """Return whether an epoch belongs to a compressed phase of AC/DC (Peste et al. 2021, algorithm 1).

    Between the first and the last part of the training, compressed and decompressed phases of equal length alternate.
    Boundaries are rounded to epochs; the last epoch is always compressed.

    Args:
        epochs: number of epochs of the training.
        phases: number of compressed phases, the last one included.
        dense_first: part of the training before the first compressed phase.
        sparse_last: part of the training of the last compressed phase.
        epoch: the epoch, counted from 0.
    """
    end = epochs - max(1, round(sparse_last * epochs))
    if epoch >= end or phases == 1:
        return epoch >= end
    start, count = round(dense_first * epochs), 2 * (phases - 1)
    bounds = [start + round(index * (end - start) / count) for index in range(count)]
    return sum(epoch >= bound for bound in bounds) % 2 == 1
