"""The loop of a search: trials become jobs, and the results of jobs are told to the study."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.pruners import NopPruner
from optuna.trial import FrozenTrial, TrialState

from ersparse.errors import UserError
from ersparse.storage import run_json
from ersparse.storage.objective import value_of
from ersparse.sweep.job import Job
from ersparse.sweep.job_state import JobState, JobStates
from ersparse.sweep.search.options import PREFIX
from ersparse.sweep.search.space import Space
from ersparse.sweep.search.study import RUN, SEEN, WHY, Search

MOST_REPEATS = 100  # trials in a row that are no new runs, after which the space counts as exhausted


class Trials:
    """Keeps a number of trials running until enough have ended.

    Args:
        search: the study.
        space: the space of the search.
        distributions: Optuna's distribution of each of its dimensions.
        job_of: composes and checks the job of a trial from its overrides; raises `UserError` if it is refused.
        n_trials: number of trials that end.
        parallel: number of trials at a time; None lets the launcher decide.

    Attributes:
        open: the trials whose jobs have not ended, by number.
        failed: number of trials whose jobs have failed in this command; the next one repeats them.
        refused: overrides and reason of trials that are no valid runs.
        exhausted: whether the sampler has nothing new to propose.
    """

    def __init__(
        self,
        search: Search,
        space: Space,
        distributions: Mapping[str, BaseDistribution],
        job_of: Callable[[Sequence[str]], Job],
        n_trials: int,
        parallel: int | None = None,
    ) -> None:
        self.search, self.space, self.distributions, self.job_of = search, space, distributions, job_of
        self.n_trials, self.parallel = n_trials, parallel
        self.open: dict[int, JobState] = {}
        self.failed, self.repeats, self.exhausted = 0, 0, False
        self.refused: list[str] = []
        self.prunes = not isinstance(search.study.pruner, NopPruner)
        self.sizes: dict[Path, int] = {}  # of each metrics.csv when it was read last
        self.unfinished = list(search.trials(TrialState.RUNNING))
        ours = search.trials(*SEEN, TrialState.FAIL)
        self.runs = {trial.user_attrs[RUN] for trial in ours if RUN in trial.user_attrs and WHY not in trial.user_attrs}

    def update(self, jobs: JobStates) -> None:
        """Tell the study what jobs have ended, stop those that are hopeless, and add the jobs of further trials."""
        self._look(jobs)
        while self._wanted() and self._add(jobs):
            self._look(jobs)  # its run may have been done before

    def _look(self, jobs: JobStates) -> None:
        for number, job_state in list(self.open.items()):
            if job_state.state == "running":
                self._follow(number, job_state, jobs)
            elif job_state.state in ("done", "pruned", "failed"):
                self._end(number, job_state)

    def _wanted(self) -> bool:
        ended = self.search.ended() + self.failed + len(self.open)
        return not self.exhausted and len(self.open) < (self.parallel or 1) and ended < self.n_trials

    def _add(self, jobs: JobStates) -> bool:
        """Add the job of an interrupted trial, or of a new one; return whether it may be tried again."""
        trial = self.unfinished.pop(0) if self.unfinished else self.search.ask(self.distributions)
        job, why = self._job(trial)
        if job is None:
            self.search.note(trial.number, **{WHY: why})
            self.repeats += 1
            self.exhausted = not self._tell(trial.number, TrialState.FAIL) or self.repeats >= MOST_REPEATS
            return not self.exhausted
        self.search.note(trial.number, **{RUN: job.name})
        self.runs.add(job.name)
        self.open[trial.number], self.repeats = jobs.add(job), 0
        return True

    def _job(self, trial: FrozenTrial) -> tuple[Job | None, str]:
        """Return the job of a trial; None and the reason if it is not run."""
        if trial.params.keys() != self.distributions.keys():
            return None, "killed before it had values"
        overrides = self.space.overrides(trial.params)
        try:
            job = self.job_of(overrides)
        except UserError as error:
            self.refused.append(str(error))
            return None, str(error)
        if job.name in self.runs:
            return None, f"repeats {job.name}"
        return job, ""

    def _follow(self, number: int, job_state: JobState, jobs: JobStates) -> None:
        """Report the epochs of a running job, and stop it if the pruner says so."""
        if not self.prunes or job_state.pruned or not self._report(number, job_state.job):
            return
        if self.search.is_hopeless(number):
            trial = self.search.trial(number)
            epoch = trial.last_step or 0
            value = f"{self.search.objectives[0]}={trial.intermediate_values[epoch]:.4g}"
            jobs.prune(job_state, f"pruned after epoch {epoch + 1}, {value} (trial {number} of {self.search.name})")

    def _report(self, number: int, job: Job) -> bool:
        """Report the epochs of a job, and return whether there are new ones."""
        table, key = job.folder / "metrics.csv", self.search.objectives[0].removeprefix("metrics.")
        try:
            size = table.stat().st_size
            if self.sizes.get(table) == size:
                return False
            rows = list(csv.DictReader(table.read_text("utf-8").splitlines()))
        except OSError:  # no epoch has ended
            return False
        self.sizes[table] = size
        if rows and key not in rows[0]:
            columns = [name for name in rows[0] if not name.startswith("test") and name != "epoch"]
            raise UserError(
                f"{PREFIX}objective={key}: must be a column of metrics.csv to prune by, as {', '.join(columns)}"
            )
        self.search.report(number, {int(row["epoch"]): float(row[key]) for row in rows})
        return True

    def _end(self, number: int, job_state: JobState) -> None:
        """Tell the study how a trial has ended. One that failed stays open, so that the same command repeats it."""
        del self.open[number]
        if job_state.state == "failed":
            self.failed += 1
        elif job_state.state == "pruned":
            self._tell(number, TrialState.PRUNED)
        else:
            if self.prunes:
                self._report(number, job_state.job)
            self._complete(number, job_state)

    def _complete(self, number: int, job_state: JobState) -> None:
        record: dict[str, Any] = run_json.read(job_state.job.folder) or {}
        values = [value_of(record, key, f"{PREFIX}objective") for key in self.search.objectives]
        numbers = [value for value in values if value is not None]
        job_state.note = described(self.search.objectives, values)
        if len(numbers) == len(values):
            self._tell(number, TrialState.COMPLETE, numbers)
        else:
            self._tell(number, TrialState.FAIL)

    def _tell(self, number: int, state: TrialState, values: list[float] | None = None) -> bool:
        more = self.search.tell(number, state, values)
        self.exhausted = self.exhausted or not more
        return more

    def summary(self) -> list[str]:
        """Return the lines that end a search: the best trials, and what was not tried."""
        search, lines = self.search, []
        complete = search.trials(TrialState.COMPLETE)
        best = search.study.best_trials if complete else []
        for trial in best[:10]:
            figures = described(search.objectives, trial.values)
            lines.append(f"best  {figures}  {' '.join(self.space.varied(trial.params))}  {trial.user_attrs[RUN]}")
        lines += [f"refused  {reason}" for reason in dict.fromkeys(self.refused)]
        counts = {state: len(search.trials(state)) for state in SEEN}
        lines.append(
            f"{search.ended()} of {self.n_trials} trials: {counts[TrialState.COMPLETE]} done, "
            f"{counts[TrialState.PRUNED]} pruned; {search.folder / 'trials.csv'}"
        )
        if self.exhausted and search.ended() < self.n_trials:
            lines.append("the sampler proposes nothing new: the space may have no more points")
        return lines


def described(objectives: Sequence[str], values: Sequence[float | None]) -> str:
    """Return objectives with their values, as one text."""
    return " ".join(
        f"{key}={'not finite' if value is None else f'{value:.6g}'}"
        for key, value in zip(objectives, values, strict=True)
    )
