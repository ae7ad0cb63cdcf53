"""File-based rendezvous for multi-node runs: the tasks of a SLURM job exchange state through one shared folder.

Rank 0 writes the resolved settings to `decided.json`, and the other ranks wait for that file. Each of them touches
`rank<n>` as its heartbeat, and writes its exit status there when it ends. Rank 0 closes the rendezvous with `over`.
Every attempt of a job has a new folder, so that it never reads files of an earlier attempt. Imports no torch.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ersparse.distributed.failed_rank import FailedRank
from ersparse.storage.atomic import write_json, write_text

VARIABLE = "ERSPARSE_MEETING"  # environment variable with the arguments of a `Rendezvous`, as JSON
HEARTBEAT_INTERVAL = 2.0  # seconds
HEARTBEAT_TIMEOUT = 30.0  # seconds without a heartbeat after which a rank counts as lost


@dataclass
class Rendezvous:
    """One rank's access to the rendezvous folder.

    Attributes:
        folder: shared by all ranks.
        rank: global rank of this process.
        size: number of ranks.
        local: rank of this process among those on its node.
        node: index of its node.
        heartbeats: by rank, the time of its latest heartbeat on its node's clock, and when this process first saw it.
    """

    folder: Path
    rank: int
    size: int
    local: int
    node: int
    heartbeats: dict[int, tuple[float, float]] = field(default_factory=dict)

    @staticmethod
    def here() -> Rendezvous | None:
        """Return the rendezvous that this process was started for, or None outside a multi-task job."""
        arguments = os.environ.get(VARIABLE)
        if not arguments:
            return None
        values = json.loads(arguments)
        return Rendezvous(Path(values.pop("folder")), **values)

    def environment(self) -> dict[str, str]:
        """Return the environment variables with which `here()` in a child process returns this rendezvous."""
        values = {"rank": self.rank, "size": self.size, "local": self.local, "node": self.node}
        return {VARIABLE: json.dumps({"folder": str(self.folder), **values})}

    def announce(self, settings: Mapping[str, Any]) -> None:
        """Publish the resolved settings of the run. Called by rank 0."""
        write_json(self.folder / "decided.json", settings)

    def announced_settings(self) -> dict[str, Any] | None:
        """Return the settings that rank 0 announced, or None if it has not announced any yet."""
        try:
            return dict(json.loads((self.folder / "decided.json").read_bytes()))
        except OSError:
            return None

    def close(self) -> None:
        """Tell the other ranks that the run has ended. Called by rank 0."""
        write_text(self.folder / "over", "")

    def is_closed(self) -> bool:
        return (self.folder / "over").exists()

    def send_heartbeat(self) -> None:
        """Show that this rank is alive."""
        write_text(self.folder / f"rank{self.rank}", "")

    def report_exit(self, status: int) -> None:
        """Publish the exit status of this rank's training process."""
        write_text(self.folder / f"rank{self.rank}", str(status))

    def failed_rank(self) -> FailedRank | None:
        """Return the first other rank that ended with an error or whose heartbeat stopped, or None."""
        for rank in range(1, self.size):
            status = self._exit_status(rank)
            if status or (status is None and self._is_lost(rank)):
                return FailedRank(rank, status)
        return None

    def _exit_status(self, rank: int) -> int | None:
        try:
            text = (self.folder / f"rank{rank}").read_text("utf-8")
        except OSError:
            return None
        return int(text) if text else None

    def _is_lost(self, rank: int) -> bool:
        """Return whether a rank's heartbeat has stopped, by this node's clock: the clocks of two nodes may differ."""
        try:
            heartbeat = (self.folder / f"rank{rank}").stat().st_mtime
        except OSError:  # it has not started yet; srun starts all tasks or none
            return False
        now = time.monotonic()
        previous, first_seen = self.heartbeats.get(rank, (-1.0, now))
        self.heartbeats[rank] = (heartbeat, now if heartbeat != previous else first_seen)
        return now - self.heartbeats[rank][1] > HEARTBEAT_TIMEOUT
