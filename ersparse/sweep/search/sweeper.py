"""The sweeper `optuna`: searches hyperparameters, over the launchers of every sweep."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hydra.plugins.sweeper import Sweeper
from omegaconf import OmegaConf

from ersparse.config.groups import build
from ersparse.errors import UserError
from ersparse.sweep.sweeper import GridSweeper, words_of

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

    from ersparse.sweep.compose import Composer
    from ersparse.sweep.job import Job
    from ersparse.sweep.search.options import SearchOptions
    from ersparse.sweep.search.space import Space

NOT_OPTIONS = ("_target_", "_recursive_", "params", "words")


class OptunaSweeper(GridSweeper):
    """Searches a space by trials, each of which is a run."""

    def __init__(self, **keys: Any) -> None:
        """Accept the keys of conf/hydra/sweeper/optuna.yaml, which `sweep` reads from the config."""
        Sweeper.__init__(self)

    def sweep(self, arguments: list[str]) -> Any:
        """Search, and exit with the status of the sweep.

        Raises:
            UserError: the search is refused; nothing has been created.
        """
        if importlib.util.find_spec("optuna") is None:
            raise UserError("hydra/sweeper=optuna: is not installed; pip install optuna")
        from ersparse.sweep.compose import make_composer
        from ersparse.sweep.local.launcher import JobLauncher
        from ersparse.sweep.search.options import PREFIX, SearchOptions
        from ersparse.sweep.search.space import parse_space

        assert self.config and self.hydra_context
        keys = OmegaConf.to_container(self.config.hydra.sweeper, resolve=True)
        assert isinstance(keys, dict)
        options = build(SearchOptions, {str(k): v for k, v in keys.items() if k not in NOT_OPTIONS}, PREFIX)
        if not isinstance(self.launcher, JobLauncher):
            raise UserError("hydra/launcher=basic: must be local or slurm with hydra/sweeper=optuna")
        composer = make_composer(self.hydra_context, self.config)
        space = parse_space(words_of(keys["words"]) or arguments, keys["params"], composer.parser)
        sys.exit(self._search(space, options, composer))

    def _search(self, space: Space, options: SearchOptions, composer: Composer) -> int:
        from ersparse.sweep.build_jobs import build_jobs  # PyTorch takes a second to import
        from ersparse.sweep.search.study import open_search
        from ersparse.sweep.search.trials import Trials

        launcher: Any = self.launcher
        options.make_sampler(), options.make_pruner()
        corners = build_jobs(space.corners(), composer, local=launcher.local)
        check_objectives(corners, options.objective)
        first = corners[0]
        assert first.settings
        distributions = space.distributions(first.settings.model_dump(by_alias=True))
        name = name_of(first, distributions, options)
        launcher.check_search(corners)
        if first.settings.dry_run:
            return print_search(name, first, space, options)

        def job_of(overrides: Sequence[str]) -> Job:
            return build_jobs([overrides], composer, local=launcher.local)[0]

        with open_search(name, first.root, options, first.fresh) as search:
            trials = Trials(search, space, distributions, job_of, options.n_trials, options.n_jobs)
            status: int = launcher.search(trials, corners)
            for line in trials.summary():
                print(line)
        return status


def check_objectives(jobs: Sequence[Job], objectives: Sequence[str]) -> None:
    """Check that no objective is of the test set, and that the jobs have the images and metrics that they need.

    Raises:
        UserError: an objective is not allowed.
    """
    from ersparse.storage.objective import check_objective
    from ersparse.sweep.search.options import PREFIX

    for job in jobs:
        assert job.settings
        for key in objectives:
            check_objective(key, f"{PREFIX}objective", job.settings.dataset.validation)
            if key.startswith(("val/", "train/")) and not job.epochs:
                method = job.settings.method["name"]
                raise UserError(
                    f"{PREFIX}objective={key}: method={method} trains nothing; must be as sparsity.effective"
                )


def name_of(first: Job, distributions: dict[str, BaseDistribution], options: SearchOptions) -> str:
    """Return the name of a search, which is the same each time that the command is issued.

    Sampler, pruner and number of trials may change from one command to the next, as may all that is not part of the
    identity of a run.
    """
    from optuna.distributions import distribution_to_json

    space = {key: distribution_to_json(distribution) for key, distribution in sorted(distributions.items())}
    identity = json.dumps([first.name, space, options.objective, options.direction])
    experiment = (first.settings and first.settings.experiment) or "search"
    return f"{experiment}-{hashlib.sha256(identity.encode()).hexdigest()[:8]}"


def print_search(name: str, first: Job, space: Space, options: SearchOptions) -> int:
    """Print the space and the cost of a search, of which nothing is created, and return the exit status."""
    from ersparse.storage import run_json
    from ersparse.sweep.cost import estimate_cost, format_cost, seconds_per_epoch, total_cost
    from ersparse.sweep.search.space import described

    cost = estimate_cost(first, 0, seconds_per_epoch(record for _, record in run_json.find_runs(first.root)))
    lines = [
        f"search      {first.root / 'searches' / name}",
        *(f"each with   {' '.join(space.fixed)}" for _ in space.fixed[:1]),
        *(f"dimension   {described(dimension)}" for dimension in space.dimensions),
        *(
            f"objective   {direction} {key}"
            for key, direction in zip(options.objective, options.direction, strict=True)
        ),
        *format_cost(total_cost([cost] * options.n_trials), options.n_jobs or 1),
        f"{options.n_trials} trials",
    ]
    for line in lines:
        print(line)
    return 0
