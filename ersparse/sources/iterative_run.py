"""Densities of another run: of the iterative pruning of the same network on the same data (the paper's ER-IMP).

Such a run is looked for among those of `paths.root`, whatever their experiment, and made under `paths.cache`.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ersparse.config.command_line import command
from ersparse.config.schema import Settings
from ersparse.errors import UserError
from ersparse.sources.pruner import UnresolvedSource, exclusive, source_from
from ersparse.sparse.layers import Layer
from ersparse.sparse.source import Source
from ersparse.storage import density_file
from ersparse.storage.run_folder import RunFolder

if TYPE_CHECKING:
    from ersparse.runs.plan import Plan

log = logging.getLogger("ersparse")


@dataclass(frozen=True)
class IterativeRunSource(UnresolvedSource):
    """A source whose densities another run has, or will have.

    Attributes:
        run: the plan of that run.
    """

    run: Plan

    def announcement(self) -> str:
        """What comes before."""
        return f"first {command(self.run.settings)}"

    def folder(self) -> Path | None:
        """Where the run is, done."""
        here, seed = self.run.folder.parent.name, self.run.folder.name
        places = [self.run.folder, *sorted(Path(self.settings.paths.root).glob(f"*/{here}/{seed}"))]
        return next((place for place in places if (RunFolder(place).read() or {}).get("state") == "done"), None)

    def known(self) -> Source | None:
        """The source, if the run is done."""
        folder = self.folder()
        return source_from(self.settings, self.layers, density_file.read(folder), self.nominal) if folder else None

    def make(self) -> Source:
        """The source; the run is made on the way, by one of several processes that need it."""
        if found := self.known():
            return found
        with exclusive(self.run.folder.parent / f"{self.run.folder.name}.json"):
            if not (found := self.known()):
                from ersparse.runs.run import run_planned

                log.info(f"first the run whose densities it takes: {command(self.run.settings)}")
                run_planned(self.run)
                found = self.known()
        assert found
        return found


def iterative_run_source(settings: Settings, layers: list[Layer], nominal: float) -> IterativeRunSource:
    """
    Raises:
        UserError: the run is refused; or it is not there, and is not to be made.
    """
    from ersparse.runs.plan import make_plan  # which knows of this file

    source = IterativeRunSource(layers, nominal, settings, make_plan(run_settings(settings, nominal)))
    if not (settings.sparsity.make or settings.dry_run or source.folder()):
        raise UserError(
            f"sparsity={settings.sparsity.name}: the run that has these densities is not there; sparsity.make=true "
            f"makes it, as does `{command(source.run.settings)}`"
        )
    return source


def run_settings(settings: Settings, nominal: float) -> Settings:
    """Of the run whose densities are taken: the same network, data and seeds, from dense, under `paths.cache`."""
    recipe, dense = settings.sparsity.run, "ersparse.sparse.density.dense"
    assert recipe
    changes = {
        "sparsity": settings.sparsity.model_copy(
            update={"name": "dense", "target": dense, "run": None, "control": "none", "keep_mask": False}
        ),
        "method": recipe.method | {"final_sparsity": round(1 - nominal, 12)},
        "optimizer": recipe.optimizer,
        "dataset": settings.dataset.model_copy(update={"batch_size": recipe.batch_size}),
        "trainer": settings.trainer.model_copy(update={"max_epochs": settings.dataset.epochs}),
        "seeds": settings.seeds.model_copy(update={"mask": None}),
        "paths": settings.paths.model_copy(update={"root": str(Path(settings.paths.cache).expanduser())}),
        "logger": settings.logger.model_copy(update={"name": "csv"}),
        "experiment": None,
        "fresh": False,
        "dry_run": False,
    }
    return settings.model_copy(update=changes)
