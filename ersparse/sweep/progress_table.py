"""What the person at the keyboard sees of a sweep: one live table, or plain lines where there is no terminal."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ersparse.storage import run_json
from ersparse.sweep.job_state import JobState, JobStates

EVERY = 0.5  # seconds between two pictures
LATEST = 5  # of the finished jobs, and of the failed ones, in the live table
STATES = ("done", "running", "held", "waiting", "failed", "stopped")
STYLES = {"done": "green", "failed": "red", "held": "yellow", "stopped": "yellow"}


class ProgressTable:
    """Follows a sweep; at the end every failure with its reason and log."""

    def __init__(self, pool: JobStates) -> None:
        self.pool, self.console = pool, Console(highlight=False, soft_wrap=True)
        self.began, self.drawn = time.monotonic(), 0.0
        self.shown: dict[int, str] = {}  # by job, the state that was printed last
        self.seen: dict[int, tuple[int, float]] = {}  # by job, the epoch at which it was first seen, and when
        self.live = Live(console=self.console, auto_refresh=False) if self.console.is_terminal else None

    def __enter__(self) -> ProgressTable:
        if self.live:
            self.live.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.drawn = 0.0
        self.update()
        if self.live:
            self.live.stop()
        for task in self.pool.of("failed"):
            self._print(f"failed  {task.job.name}: {task.reason}\n        log: {task.log}", "red")
        if self.pool.of("failed") or not self.live:  # else it is the last line of the picture
            self._print(self.summary())
        if self.pool.of("stopped"):
            self._print("stopped; the same command goes on where it was")

    def update(self) -> None:
        """Draws the table, or prints a line for each job whose state has changed."""
        if self.live is None:
            for number, task in enumerate(self.pool.tasks):
                if self.shown.get(number, "done" if task.before else "waiting") != task.state:
                    self._print(f"{task.state:8}{task.job.name}{self._figures(task)}")
                self.shown[number] = task.state
        elif time.monotonic() - self.drawn > EVERY:
            self.drawn = time.monotonic()
            self.live.update(self.picture(), refresh=True)

    def summary(self) -> str:
        counts = {state: len(self.pool.of(state)) for state in STATES}
        before = sum(task.before for task in self.pool.tasks)
        words = [f"{count} {state}" for state, count in counts.items() if count]
        if before:
            words[0] += f" ({before} before)"
        return f"{len(self.pool.tasks)} jobs {self.pool.where}: {', '.join(words) or 'nothing to do'}"

    def picture(self) -> RenderableType:
        """The jobs that run, those that wait for another process, and the latest that ended."""
        table = Table(box=None, show_header=False, pad_edge=False, expand=True)
        table.add_column(width=8)
        table.add_column(ratio=3, no_wrap=True, overflow="ellipsis")
        table.add_column(ratio=3, no_wrap=True, overflow="ellipsis")
        table.add_column(width=16)
        ended = [task for task in self.pool.of("done", "stopped") if not task.before]
        tasks = [*self.pool.of("failed")[-LATEST:], *ended[-LATEST:], *self.pool.of("held", "running")]
        for task in tasks[-max(1, self.console.height - 2) :]:
            bar = self._bar(task) if task.state == "running" else ""
            state = Text(task.state, STYLES.get(task.state, ""))
            table.add_row(state, Text(task.job.name), Text(self._figures(task).strip()), bar)
        return Group(table, Text(f"{self.summary()}  {clock(time.monotonic() - self.began)}{self._left()}", "bold"))

    def _bar(self, task: JobState) -> RenderableType:
        record = run_json.read(task.job.folder)
        done = record["progress"]["epoch"] if record else 0
        return ProgressBar(max(1, task.job.epochs), done)

    def _figures(self, task: JobState) -> str:
        """What there is to say of a job, in a few words."""
        if task.state == "failed":
            return f"  {task.reason}"
        if task.state == "held":
            return "  waiting for another process that works in this folder"
        record = run_json.read(task.job.folder)
        if task.state == "running" and record and task.job.epochs:
            return self._progress(task, record["progress"]["epoch"]) + f"  {task.note}".rstrip()
        if task.state in ("waiting", "running"):
            return f"  {task.note}".rstrip()
        accuracy = (record or {}).get("metrics", {}).get("test/acc")
        figures = "" if accuracy is None or task.state != "done" else f"  test accuracy {accuracy:.4f}"
        return figures + (f"  {clock(task.seconds)}" if task.seconds else "")

    def _progress(self, task: JobState, epoch: int) -> str:
        number = self.pool.tasks.index(task)
        first, since = self.seen.setdefault(number, (epoch, time.monotonic()))
        text = f"  epoch {epoch}/{task.job.epochs}"
        if epoch == first:
            return text
        each = (time.monotonic() - since) / (epoch - first)
        return f"{text}  left {clock(each * (task.job.epochs - epoch))}"

    def _left(self) -> str:
        """How long the rest takes, from what the jobs of this sweep took so far."""
        took = [task.seconds for task in self.pool.of("done") if not task.before]
        todo = len(self.pool.of("waiting", "held", "running"))
        if not took or not todo:
            return ""
        left = sum(took) / len(took) * (todo - len(self.pool.of("running")) / 2) / self.pool.width
        return f", about {clock(left)} left"

    def _print(self, line: str, style: str = "") -> None:
        self.console.print(line, style=style, markup=False)


def clock(seconds: float) -> str:
    """h:mm:ss"""
    minutes, second = divmod(int(seconds + 0.5), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{second:02}"
