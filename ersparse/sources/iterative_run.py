"""Densities taken from a finished run of iterative pruning (the paper's ER-IMP).

The run is of the same network on the same data. It is looked for below `paths.root`, whatever its experiment, and below
`paths.cache`, where it is made when it is missing. This file finds and reads runs; it never starts one.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ersparse.config.schedule_settings import MULTISTEP, ScheduleSettings
from ersparse.config.schema import Settings
from ersparse.config.trainer_settings import LossSettings
from ersparse.sources.er import source_from_densities
from ersparse.sources.unresolved import UnresolvedSource
from ersparse.sparse.source import Source
from ersparse.storage import density_file, run_json

DENSE = "ersparse.sparse.density.dense"


@dataclass(frozen=True)
class IterativeRunSource(UnresolvedSource):
    """A source with the densities that another run ends with.

    Attributes:
        run: the folder of that run, if it is made for this one.
    """

    run: Path

    def finished_run(self) -> Path | None:
        """Return the folder of the run if it is done."""
        places = [self.run, *sorted(Path(self.settings.paths.root).glob(f"*/{self.run.parent.name}/{self.run.name}"))]
        return next((place for place in places if (run_json.read(place) or {}).get("state") == "done"), None)

    def resolved(self) -> Source | None:
        folder = self.finished_run()
        if folder is None:
            return None
        return source_from_densities(self.settings, self.layers, density_file.read(folder), self.nominal)


def prerequisite_settings(settings: Settings, nominal: float) -> Settings:
    """Return the settings of the run whose densities are used: from dense, with the same network, data and seeds.

    Args:
        settings: the settings of the run that uses the densities.
        nominal: the density at which iterative pruning ends.
    """
    recipe = settings.sparsity.run
    assert recipe
    changes = {
        "sparsity": settings.sparsity.model_copy(
            update={"name": "dense", "target": DENSE, "run": None, "control": "none", "keep_mask": False}
        ),
        "method": recipe.method | {"final_sparsity": round(1 - nominal, 12)},
        "optimizer": recipe.optimizer,
        "schedule": ScheduleSettings.model_validate(MULTISTEP),
        "dataset": settings.dataset.model_copy(update={"batch_size": recipe.batch_size}),
        "trainer": settings.trainer.model_copy(
            update={
                "max_epochs": settings.dataset.epochs,
                "clip_norm": None,
                "accumulate": 1,
                "ema": None,
                "early_stopping": None,
            }
        ),
        "loss": LossSettings(),
        "seeds": settings.seeds.model_copy(update={"mask": None}),
        "paths": settings.paths.model_copy(update={"root": str(Path(settings.paths.cache).expanduser())}),
        "logger": {"name": "csv"},
        "experiment": None,
        "fresh": False,
        "dry_run": False,
    }
    return settings.model_copy(update=changes)
