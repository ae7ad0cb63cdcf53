"""One run of a sweep, as its launcher needs to know it. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ersparse.config.schema import Settings


@dataclass(frozen=True)
class Job:
    """One run of a sweep.

    Attributes:
        words: its command line.
        folder: where it leaves its results.
        root: what that folder and its log lie under.
        devices: processes that it starts.
        gpu: whether it trains on GPUs of this machine.
        epochs: of training; 0 draws only.
        nodes: that its devices are spread over.
        fresh: whether it starts over where there is a finished run.
        settings: None for a job that is run again from its record.
        densities: asked for each layer, where the settings are known.
        execution: how its steps will be computed, where that is not up to the machine that it runs on.
        first: the run whose densities it takes, where that is not done; it is made on the way.
    """

    words: tuple[str, ...]
    folder: Path
    root: Path
    devices: int
    gpu: bool
    epochs: int
    fresh: bool = False
    nodes: int = 1
    settings: Settings | None = field(default=None, repr=False)
    densities: Mapping[str, float] = field(default_factory=dict, repr=False)
    execution: str = "masked"
    first: Job | None = None

    @property
    def name(self) -> str:
        """The run folder without its root."""
        return str(self.folder.relative_to(self.root))

    @property
    def log(self) -> Path:
        """What the process prints; it stays where the job fails."""
        return self.root / ".sweep" / (self.name.replace("/", "--") + ".log")
