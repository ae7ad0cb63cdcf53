"""Checks before submission of what SLURM cannot know and would fail on the nodes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ersparse.config.command_line import command
from ersparse.errors import UserError
from ersparse.storage import run_json
from ersparse.sweep.cost import TimingKey, accelerator_of, matching_times, seconds_per_epoch, timing_key
from ersparse.sweep.durations import format_duration
from ersparse.sweep.job import Job


def refuse_prerequisites_on_several_ranks(jobs: Sequence[Job]) -> None:
    """Refuse a job of several tasks whose layer densities come from a run that is not finished.

    The tasks of a job have one rendezvous, and so can train one run only.

    Raises:
        UserError: there is such a job.
    """
    for job in jobs:
        if job.prerequisite and job.devices > 1:
            assert job.settings and job.prerequisite.settings
            raise UserError(
                f"sparsity={job.settings.sparsity.name}: a job of several tasks does not make the run that has these "
                f"densities; must be there before: `{command(job.prerequisite.settings)}`"
            )


def time_limit_warnings(jobs: Sequence[Job], limit: float, gpus: bool = False) -> Iterator[str]:
    """Yield a warning for each kind of run of which one epoch takes longer than `limit` seconds.

    Epoch times are those of finished runs of the same kind below the roots of the jobs.

    Args:
        jobs: the jobs.
        limit: the time limit of each job, in seconds.
        gpus: whether jobs with `trainer.accelerator=auto` get a GPU.
    """
    roots = sorted({job.root for job in jobs})
    epoch_times = seconds_per_epoch(record for root in roots for _, record in run_json.find_runs(root))
    warned: set[TimingKey] = set()
    for job in jobs:
        assert job.settings
        config = job.settings.model_dump(by_alias=True)
        config["trainer"]["accelerator"] = accelerator_of(job.settings, gpus)
        key = timing_key(config)
        seconds = min(matching_times(key, epoch_times), default=0.0)
        if seconds > limit and key not in warned:
            warned.add(key)
            yield (
                f"hydra.launcher.time_limit={format_duration(limit)}: an epoch of model={job.settings.model.name} "
                f"dataset={job.settings.dataset.name} has taken {format_duration(seconds)}, a job ends before its "
                "first checkpoint"
            )
