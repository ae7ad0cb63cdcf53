"""What the person at the keyboard sees of a sweep."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from ersparse.sweep.pool import Pool


class Screen:
    """Plain lines."""

    def __init__(self, pool: Pool) -> None:
        self.pool, self.console = pool, Console(highlight=False, soft_wrap=True)
        self.states: dict[int, str] = {}

    def __enter__(self) -> Screen:
        return self

    def update(self) -> None:
        for number, task in enumerate(self.pool.tasks):
            if self.states.get(number, "waiting") != task.state:
                self.states[number] = task.state
                self.console.print(f"{task.state} {task.job.name} {task.reason}", markup=False)

    def __exit__(self, *_: Any) -> None:
        for task in self.pool.of("failed"):
            self.console.print(f"failed {task.job.name}: {task.reason}  ({task.log})", markup=False)
