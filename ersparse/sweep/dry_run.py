"""Dry run of a sweep: lists its jobs, their folders and states, and the cost of what is not done. Creates nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rich.console import Console

from ersparse.storage import run_json
from ersparse.sweep.cost import Cost, estimate_cost, format_cost, seconds_per_epoch, total_cost
from ersparse.sweep.job import Job


def print_jobs(jobs: Sequence[Job], slots: int) -> None:
    """Print a line for each job, then the cost of what is not done, then the number of jobs.

    Prerequisites, which are runs that other jobs take their layer densities from, come first.

    Args:
        jobs: the jobs of the sweep.
        slots: number of jobs at a time.
    """
    console = Console(highlight=False, soft_wrap=True)
    progress = [_progress(job) for job in jobs]
    prerequisites = _prerequisites(jobs)
    lines = [
        *(_line("first", 0, job, job.overrides) for job in prerequisites),
        *_job_lines(jobs, progress),
        *format_cost(_remaining_cost(jobs, progress, prerequisites), slots),
        "jobs        "
        + ", ".join(f"{count} {state}" for state, count in Counter(state for state, _ in progress).items()),
        f"{len(jobs)} jobs" + (f", after {len(prerequisites)} for their densities" if prerequisites else ""),
    ]
    for line in lines:
        console.print(line, markup=False)


def _progress(job: Job) -> tuple[str, int]:
    """Return (state, epochs done) of the run. A run that starts over is new."""
    record = None if job.fresh else run_json.read(job.folder)
    return run_json.state_of(record, job.folder), record["progress"]["epoch"] if record else 0


def _prerequisites(jobs: Sequence[Job]) -> list[Job]:
    """Return the prerequisites of jobs that are not themselves jobs of the sweep."""
    own = {(job.folder.parent.name, job.folder.name) for job in jobs}
    found = {job.prerequisite.folder: job.prerequisite for job in jobs if job.prerequisite}
    return [job for job in found.values() if (job.folder.parent.name, job.folder.name) not in own]


def _job_lines(jobs: Sequence[Job], progress: Sequence[tuple[str, int]]) -> list[str]:
    """Return a line for each job, after one with the overrides that all of them share."""
    common = set.intersection(*(set(job.overrides) for job in jobs))
    lines = [f"each with   {' '.join(text for text in jobs[0].overrides if text in common)}"] if common else []
    for job, (state, epoch) in zip(jobs, progress, strict=True):
        lines.append(_line(state, epoch, job, [text for text in job.overrides if text not in common]))
    return lines


def _line(state: str, epoch: int, job: Job, overrides: Sequence[str]) -> str:
    epochs = f"{epoch}/{job.epochs} epochs" if job.epochs else ""
    return f"{state:12}{epochs:14}{job.folder}  {' '.join(overrides)}"


def _remaining_cost(jobs: Sequence[Job], progress: Sequence[tuple[str, int]], prerequisites: Sequence[Job]) -> Cost:
    roots = {job.root for job in jobs}
    epoch_times = seconds_per_epoch(record for root in roots for _, record in run_json.find_runs(root))
    remaining = [(job, epoch) for job, (state, epoch) in zip(jobs, progress, strict=True) if state != "done"]
    remaining += [(job, 0) for job in prerequisites]
    return total_cost([estimate_cost(job, epoch, epoch_times) for job, epoch in remaining])
