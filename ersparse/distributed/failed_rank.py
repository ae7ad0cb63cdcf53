"""A rank that ended with an error or stopped responding. Imports no torch."""

from __future__ import annotations

import signal
from typing import NamedTuple

GPU_FAULT = 75  # exit status of a rank whose GPU has failed (EX_TEMPFAIL of sysexits.h: try again)


class FailedRank(NamedTuple):
    """A rank, other than rank 0, that cannot finish its training.

    Attributes:
        rank: its global rank.
        status: its exit status; minus the number of the signal that killed it; None if its heartbeat stopped.
    """

    rank: int
    status: int | None

    @property
    def was_killed(self) -> bool:
        """Whether it was killed or lost, also with its GPU, rather than ended by an error of its own.

        A new attempt may succeed.
        """
        return self.status in (None, GPU_FAULT) or (self.status or 0) < 0

    def describe(self, size: int) -> str:
        """Return the failure in one line. `size` is the number of ranks."""
        if self.status is None:
            how = "is lost: its heartbeat stopped"
        elif self.status < 0:
            how = f"died ({signal_name(self.status)})"
        elif self.status == GPU_FAULT:
            how = "lost its GPU, as printed above"
        else:
            how = f"failed (status {self.status}), as printed above"
        return f"rank {self.rank} of {size} {how}"


def signal_name(status: int) -> str:
    """Return the name of the signal that ended a process with this negative exit status, such as "SIGKILL"."""
    return signal.Signals(-status).name
