"""Progress of a sweep on the terminal: one live table, or plain lines if the output is no terminal."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ersparse.storage import run_json
from ersparse.sweep.durations import format_duration
from ersparse.sweep.job_state import JobState, JobStates

REFRESH_INTERVAL = 0.5  # seconds
LATEST = 5  # number of done jobs, and of failed jobs, in the live table
STATES = ("done", "pruned", "running", "held", "waiting", "failed", "stopped")
STYLES = {"done": "green", "failed": "red", "held": "yellow", "stopped": "yellow"}


class ProgressTable:
    """Shows the states of jobs during a `with` block, and at its end every failure with its reason and log."""

    def __init__(self, pool: JobStates) -> None:
        self.pool, self.console = pool, Console(highlight=False, soft_wrap=True)
        self.started_at, self.drawn_at = time.monotonic(), 0.0
        self.printed: dict[int, str] = {}  # by job, the state that was printed last
        self.first_seen: dict[int, tuple[int, float]] = {}  # by job, the epoch when it was first seen, and the time
        live = self.console.is_terminal and self.console.file.isatty()  # notebooks claim one that cannot redraw
        self.live = Live(console=self.console, auto_refresh=False) if live else None

    def __enter__(self) -> ProgressTable:
        if self.live:
            self.live.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.drawn_at = 0.0
        self.update()
        if self.live:
            self.live.stop()
        failed = self.pool.select("failed")
        for job_state in failed:
            line = f"failed  {job_state.job.name}: {job_state.reason}\n        log: {job_state.log}"
            self._print(line, "red")
        if failed or not self.live:  # otherwise the summary is the last line of the live table
            self._print(self.summary())
        if self.pool.select("stopped"):
            self._print("stopped; the same command resumes the sweep")

    def update(self) -> None:
        """Redraw the live table, or print a line for each job whose state has changed."""
        if self.live is None:
            self._print_changes()
        elif time.monotonic() - self.drawn_at > REFRESH_INTERVAL:
            self.drawn_at = time.monotonic()
            self.live.update(self.render(), refresh=True)

    def _print_changes(self) -> None:
        for number, job_state in enumerate(self.pool.states):
            if self.printed.get(number, "done" if job_state.done_before else "waiting") != job_state.state:
                self._print(f"{job_state.state:8}{job_state.job.name}{self._details(job_state)}")
            self.printed[number] = job_state.state

    def summary(self) -> str:
        """Return one line with the number of jobs in each state."""
        counts = {state: len(self.pool.select(state)) for state in STATES}
        before = sum(job_state.done_before for job_state in self.pool.states)
        parts = [f"{count} {state}" for state, count in counts.items() if count]
        if before:
            parts[0] += f" ({before} before)"
        return f"{len(self.pool.states)} jobs {self.pool.place}: {', '.join(parts) or 'nothing to do'}"

    def render(self) -> RenderableType:
        """Return the live table: the running and held jobs, the latest that ended, and the summary."""
        table = Table(box=None, show_header=False, pad_edge=False, expand=True)
        table.add_column(width=8)
        table.add_column(ratio=3, no_wrap=True, overflow="ellipsis")
        table.add_column(ratio=3, no_wrap=True, overflow="ellipsis")
        table.add_column(width=16)
        for job_state in self._rows():
            bar = self._bar(job_state) if job_state.state == "running" else ""
            state = Text(job_state.state, STYLES.get(job_state.state, ""))
            table.add_row(state, Text(job_state.job.name), Text(self._details(job_state).strip()), bar)
        elapsed = format_duration(time.monotonic() - self.started_at)
        return Group(table, Text(f"{self.summary()}  {elapsed}{self._estimate()}", "bold"))

    def _rows(self) -> list[JobState]:
        """Return as many jobs as fit the screen, the running ones last."""
        failed = self.pool.select("failed")
        ended = [job_state for job_state in self.pool.select("done", "pruned", "stopped") if not job_state.done_before]
        rows = [*failed[-LATEST:], *ended[-LATEST:], *self.pool.select("held", "running")]
        return rows[-max(1, self.console.height - 2) :]

    def _bar(self, job_state: JobState) -> RenderableType:
        record = run_json.read(job_state.job.folder)
        done = record["progress"]["epoch"] if record else 0
        return ProgressBar(max(1, job_state.job.epochs), done)

    def _details(self, job_state: JobState) -> str:
        """Return the reason of a failure, the progress of a running job, or the result of one that is done."""
        if job_state.state in ("failed", "pruned"):
            return f"  {job_state.reason}"
        if job_state.state == "held":
            return "  waiting for another process that works in this folder"
        record = run_json.read(job_state.job.folder)
        if job_state.state == "running" and record and job_state.job.epochs:
            return self._progress(job_state, record["progress"]["epoch"]) + f"  {job_state.note}".rstrip()
        if job_state.state in ("waiting", "running"):
            return f"  {job_state.note}".rstrip()
        return self._result(job_state, record) + (
            f"  {format_duration(job_state.seconds)}" if job_state.seconds else ""
        )

    def _result(self, job_state: JobState, record: dict[str, Any] | None) -> str:
        """Return the objectives of a trial, or the test accuracy of any other job."""
        if job_state.note:
            return f"  {job_state.note}"
        accuracy = (record or {}).get("metrics", {}).get("test/acc")
        return "" if accuracy is None or job_state.state != "done" else f"  test accuracy {accuracy:.4f}"

    def _progress(self, job_state: JobState, epoch: int) -> str:
        """Return the epoch, and the remaining time of the job once an epoch has been seen to end."""
        number = self.pool.states.index(job_state)
        first, since = self.first_seen.setdefault(number, (epoch, time.monotonic()))
        text = f"  epoch {epoch}/{job_state.job.epochs}"
        if epoch == first:
            return text
        seconds = (time.monotonic() - since) / (epoch - first)
        return f"{text}  left {format_duration(seconds * (job_state.job.epochs - epoch))}"

    def _estimate(self) -> str:
        """Return the remaining time of the sweep, from the mean duration of the jobs that it has finished."""
        durations = [job_state.seconds for job_state in self.pool.select("done") if not job_state.done_before]
        remaining = len(self.pool.select("waiting", "held", "running"))
        if not durations or not remaining:
            return ""
        jobs = remaining - len(self.pool.select("running")) / 2  # running jobs are half done, on average
        return f", about {format_duration(sum(durations) / len(durations) * jobs / self.pool.parallel)} left"

    def _print(self, line: str, style: str = "") -> None:
        self.console.print(line, style=style, markup=False)
