"""What was read a moment ago, for all jobs of a sweep, which are planned one after the other."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

T = TypeVar("T")


@dataclass
class Recent(Generic[T]):
    """Remembers the last value that was made, until it has not been used for a while.

    Attributes:
        seconds: since its last use, after which a value is made anew; or the time that it took, if that is longer.
    """

    seconds: float
    _kept: tuple[Any, float, float, T] | None = None  # key, until when, how long it took, value

    def get(self, key: Any, make: Callable[[], T]) -> T:
        """Return the value that `make` returns, or returned a moment ago for the same key."""
        kept = self._kept
        if kept and kept[0] == key and time.monotonic() <= kept[1]:
            took, value = kept[2], kept[3]
        else:
            start = time.monotonic()
            value = make()
            took = time.monotonic() - start
        self._kept = key, time.monotonic() + max(self.seconds, took), took, value
        return value

    def forget(self) -> None:
        """Have the next value made anew."""
        self._kept = None
