"""Where ranks meet that a cluster started, each as a task of its own: a folder that all of them see. Imports no torch.

The first rank decides, and says so in `decided.json`; the others wait for that. Each of the others shows that it is
alive by touching `rank<n>`, and leaves its exit status there. The first ends the meeting with `over`. The folder is new
for every attempt of a job, so that nothing in it is of an earlier one.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ersparse.storage.atomic import write_json, write_text

VARIABLE = "ERSPARSE_MEETING"
BEAT = 2.0  # seconds between two signs of life
LOST = 30.0  # seconds without one after which a rank counts as lost


@dataclass
class Rendezvous:
    """`rank` of `size` ranks, the `local`th on the `node`th node."""

    folder: Path
    rank: int
    size: int
    local: int
    node: int
    beats: dict[int, tuple[float, float]] = field(default_factory=dict)  # by rank, its latest and when that was seen

    @staticmethod
    def here() -> Rendezvous | None:
        """The meeting that this process is called to, if it is."""
        told = os.environ.get(VARIABLE)
        if not told:
            return None
        values = json.loads(told)
        return Rendezvous(Path(values.pop("folder")), **values)

    def environment(self) -> dict[str, str]:
        """What calls a process to this meeting."""
        values = {"rank": self.rank, "size": self.size, "local": self.local, "node": self.node}
        return {VARIABLE: json.dumps({"folder": str(self.folder), **values})}

    def announce(self, decided: Mapping[str, Any]) -> None:
        write_json(self.folder / "decided.json", decided)

    def decided(self) -> dict[str, Any] | None:
        """What the first rank announced; None: nothing yet."""
        try:
            return dict(json.loads((self.folder / "decided.json").read_bytes()))
        except OSError:
            return None

    def end(self) -> None:
        write_text(self.folder / "over", "")

    def is_over(self) -> bool:
        return (self.folder / "over").exists()

    def report(self, status: int | None) -> None:
        """This rank is alive, or has ended with `status`."""
        write_text(self.folder / f"rank{self.rank}", "" if status is None else str(status))

    def fallen(self) -> tuple[int, int | None] | None:
        """Number and exit status of another rank that ended with an error; None for one that is lost."""
        for rank in range(1, self.size):
            status = self._status_of(rank)
            if status != 0 and (status is not None or self._is_lost(rank)):
                return rank, status
        return None

    def _status_of(self, rank: int) -> int | None:
        try:
            text = (self.folder / f"rank{rank}").read_text()
        except OSError:
            return None
        return int(text) if text else None

    def _is_lost(self, rank: int) -> bool:
        """By this machine's clock: those of two nodes may differ."""
        try:
            beat = (self.folder / f"rank{rank}").stat().st_mtime
        except OSError:  # it has not come yet: `srun` starts all or none
            return False
        now = time.monotonic()
        before, seen = self.beats.get(rank, (-1.0, now))
        self.beats[rank] = (beat, now if beat != before else seen)
        return now - self.beats[rank][1] > LOST
