"""Durations as text: SLURM's notation, elapsed and remaining times, and ages."""

from __future__ import annotations

import re

SLURM_DURATION = re.compile(r"(?:(\d+)-)?(\d+):(\d\d)(?::(\d\d))?")


def parse_duration(text: str) -> int:
    """Return the seconds of SLURM's hours:minutes[:seconds] or days-hours:minutes[:seconds].

    Raises:
        ValueError: `text` is neither.
    """
    match = SLURM_DURATION.fullmatch(text)
    if match is None:
        raise ValueError("must be seconds, or hours:minutes:seconds, or days-hours:minutes")
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def format_duration(seconds: float) -> str:
    """Return a duration, rounded to seconds, as h:mm:ss."""
    minutes, second = divmod(int(seconds + 0.5), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{second:02}"


def format_age(seconds: float) -> str:
    """Return a duration in its largest whole unit, such as "12 s", "5 min", "3 h" or "2 d"; "" for NaN."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s" if seconds == seconds else ""
