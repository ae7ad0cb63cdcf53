"""What SLURM cannot know and would go wrong on the nodes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ersparse.config.command_line import command
from ersparse.errors import UserError
from ersparse.storage import run_json
from ersparse.sweep.cost import kind_of, timings
from ersparse.sweep.job import Job
from ersparse.sweep.progress_table import clock


def refuse_two_in_one(jobs: Sequence[Job]) -> None:
    """Tasks of a job meet once, for one training.

    Raises:
        UserError: a job of several tasks would have to make another run first, for its densities.
    """
    for job in jobs:
        if job.first and job.devices > 1:
            assert job.settings and job.first.settings
            raise UserError(
                f"sparsity={job.settings.sparsity.name}: a job of several tasks does not make the run that has these "
                f"densities; must be there before: `{command(job.first.settings)}`"
            )


def short_limits(jobs: Sequence[Job], limit: float) -> Iterator[str]:
    """A line for each kind of run an epoch of which takes longer than `limit` seconds, by runs that are done."""
    timed = timings(record for root in sorted({job.root for job in jobs}) for _, record in run_json.find_runs(root))
    for job in jobs:
        assert job.settings
        seconds = timed.pop(kind_of(job.settings.model_dump(by_alias=True)), 0.0) if timed else 0.0
        if seconds > limit:
            yield (
                f"hydra.launcher.time_limit={clock(limit)}: an epoch of model={job.settings.model.name} dataset="
                f"{job.settings.dataset.name} has taken {clock(seconds)}, a job ends before its first checkpoint"
            )
