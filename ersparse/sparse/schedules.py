"""Schedules of densities and drop fractions over training."""

from __future__ import annotations

import math


def annealed_density(start: float, end: float, level: int, levels: int, schedule: str) -> float:
    """The density of level 1 to `levels`, between that of the source and the final one.

    Args:
        schedule: "geometric", p_0 (p_T / p_0)^(t/L); "linear", in equal steps; "code", what the paper's released code
            does: geometric from 0.6, and kept between the two.
    """
    part = level / levels
    if schedule == "linear":
        return start + (end - start) * part
    if schedule == "code":
        return min(max(0.6 * math.pow(end / 0.6, part), end), start)
    return start * math.pow(end / start, part)


def drop_fraction(start: float, end: float, part: float, decay: str) -> float:
    """The share of a layer's active weights that an update drops.

    Args:
        start, end: at the start of training, and when rewiring stops.
        part: of the time between the two that has gone, in [0, 1].
        decay: "constant" (`start` throughout), "linear", or "cosine", half a period: with `end` 0 it is RigL's.
    """
    left = {"constant": 1.0, "linear": 1 - part, "cosine": (1 + math.cos(math.pi * part)) / 2}[decay]
    return end + (start - end) * left


def pruned_density(start: float, end: float, part: float, schedule: str) -> float:
    """The global density when `part` of the time for pruning has gone, in [0, 1].

    Args:
        start: realised, when pruning begins.
        schedule: "constant" (`start`), or "cubic", end + (start - end) (1 - part)^3 (Zhu & Gupta 2018; GraNet).
    """
    return start if schedule == "constant" else end + (start - end) * (1 - part) ** 3
