"""What a sweep would do: its jobs, where they lie, how they stand, what the rest costs. Creates nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rich.console import Console

from ersparse.storage import run_json
from ersparse.sweep.cost import cost_of, in_words, timings, total
from ersparse.sweep.job import Job


def list_jobs(jobs: Sequence[Job], slots: int) -> None:
    """Prints a line for each job, then the cost of what is not done; the last line is the number of jobs.

    Runs that are made on the way, for their densities, come first.
    """
    console = Console(highlight=False, soft_wrap=True)
    own = {(job.folder.parent.name, job.folder.name) for job in jobs}
    first = {job.first.folder: job.first for job in jobs if job.first}
    made = [job for job in first.values() if (job.folder.parent.name, job.folder.name) not in own]
    for job in made:
        console.print(f"{'first':12}{f'0/{job.epochs} epochs':14}{job.folder}  {' '.join(job.words)}", markup=False)
    common = set.intersection(*(set(job.words) for job in jobs))
    if common:
        console.print(f"each with   {' '.join(word for word in jobs[0].words if word in common)}", markup=False)
    standing = [_standing(job) for job in jobs]
    for job, (state, epoch) in zip(jobs, standing, strict=True):
        epochs = f"{epoch}/{job.epochs} epochs" if job.epochs else ""
        words = " ".join(word for word in job.words if word not in common)
        console.print(f"{state:12}{epochs:14}{job.folder}  {words}", markup=False)
    roots = {job.root for job in jobs}
    timed = timings(record for root in roots for _, record in run_json.find_runs(root))
    costs = [cost_of(job, epoch, timed) for job, (state, epoch) in zip(jobs, standing, strict=True) if state != "done"]
    costs += [cost_of(job, 0, timed) for job in made]
    for line in in_words(total(costs), slots):
        console.print(line, markup=False)
    counts = Counter(state for state, _ in standing)
    console.print("jobs        " + ", ".join(f"{count} {state}" for state, count in counts.items()))
    console.print(f"{len(jobs)} jobs" + (f", after {len(made)} for their densities" if made else ""))


def _standing(job: Job) -> tuple[str, int]:
    """(state, epochs done) of the run; one that starts over is new."""
    record = None if job.fresh else run_json.read(job.folder)
    return run_json.state_of(record, job.folder), record["progress"]["epoch"] if record else 0
