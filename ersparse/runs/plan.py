"""A planned run: everything that is known, and checked, before anything is created."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ersparse.config.trainer_settings import TrainerSettings
from ersparse.methods.base import Method, RunContext
from ersparse.sources.unresolved import UnresolvedSource
from ersparse.sparse.density import expected_density
from ersparse.storage.checkpoints import CheckpointFiles


@dataclass(frozen=True)
class Plan(RunContext):
    """A run that can be started.

    Attributes:
        method: the method of the run.
        execution: what `trainer.execution=auto` means on a CPU.
        prerequisite: the run whose densities this one uses; it has to be done first.
    """

    method: Method
    execution: str
    prerequisite: Plan | None = None

    @property
    def expected(self) -> float:
        """The global density that the layer densities add up to."""
        return expected_density(self.layers, self.source.densities)

    def checkpoints(self) -> CheckpointFiles:
        return CheckpointFiles(self.folder / "checkpoints", f"{self.hash}/{self.settings.seed}")

    def resolved(self) -> Plan:
        """Return the plan with the densities of its source, if they have been computed already, else itself."""
        source = self.source.resolved() if isinstance(self.source, UnresolvedSource) else None
        return replace(self, source=source) if source else self

    def with_trainer(self, trainer: TrainerSettings) -> Plan:
        """Return the plan with trainer settings in which every `auto` is resolved."""
        return replace(self, settings=self.settings.model_copy(update={"trainer": trainer}))
