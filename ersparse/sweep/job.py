"""A job of a sweep: one run, as its launcher needs to know it. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ersparse.config.schema import Settings


@dataclass(frozen=True)
class Job:
    """One run of a sweep.

    Attributes:
        overrides: its command line, as Hydra overrides.
        folder: the run folder.
        root: `paths.root`, below which the run folder and the log lie.
        devices: number of its ranks, on all nodes together.
        gpu: whether it trains on GPUs of this machine.
        epochs: number of training epochs; 0 if it only draws a network.
        fresh: whether it starts over if its run is done.
        nodes: number of nodes that its ranks are spread over.
        settings: its settings; None if it is built from the record of a run.
        densities: density of each layer, if the settings are known.
        execution: how its steps are computed, "masked" or "sparse".
        prerequisite: an unfinished run whose layer densities it needs; the job makes it on the way.
    """

    overrides: tuple[str, ...]
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
    prerequisite: Job | None = None

    @property
    def name(self) -> str:
        """The run folder relative to its root."""
        return str(self.folder.relative_to(self.root))

    @property
    def log(self) -> Path:
        """The file with the output of its process, which is kept if the job fails."""
        return self.root / ".sweep" / (self.name.replace("/", "--") + ".log")
