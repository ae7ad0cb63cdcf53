"""The launcher `slurm`: jobs on a SLURM cluster, which go on when the submitting command ends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from ersparse.errors import UserError
from ersparse.storage import run_json
from ersparse.sweep.local.launcher import JobLauncher

if TYPE_CHECKING:
    from ersparse.sweep.job import Job
    from ersparse.sweep.search.trials import Trials
    from ersparse.sweep.slurm.monitor import QueueMonitor
    from ersparse.sweep.slurm.submit import JobArray


TRIALS_AT_ONCE = 4  # of a search, if neither it nor the launcher limits them


class SlurmLauncher(JobLauncher):
    """Submits the jobs that are neither done nor in the queue, and waits for all of them."""

    local = False

    def __init__(self, **keys: Any) -> None:
        """Store the keys of conf/hydra/launcher/slurm.yaml; `setup` checks them."""
        self.keys = OmegaConf.to_container(OmegaConf.create(keys), resolve=True)
        self.arguments: list[str] = []

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Check the keys of the launcher.

        Raises:
            UserError: a key does not exist or has a value that is not allowed.
        """
        from ersparse.config.groups import build
        from ersparse.sweep.slurm.options import SlurmOptions

        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)
        assert isinstance(self.keys, dict)
        self.options = build(SlurmOptions, {str(key): value for key, value in self.keys.items()}, "hydra.launcher.")

    def run(self, jobs: Sequence[Job]) -> int:
        """Submit the jobs and wait for them.

        Returns:
            The exit status: 0, 1 if a job failed, 130 if waiting was interrupted.
        """
        from ersparse.sweep.slurm.monitor import QueueMonitor
        from ersparse.sweep.slurm.queue import remove_finished_submissions

        monitor = QueueMonitor(jobs)
        submitted = self._submit(monitor)
        if not self.options.wait:
            print(f"{submitted} of {len(jobs)} jobs submitted; python -m ersparse status {jobs[0].root} tells the rest")
            return 0
        status = self._wait(monitor)
        for root in monitor.roots:
            remove_finished_submissions(root, {job_state.job.folder for job_state in monitor.select("done")})
        return status

    def check_search(self, examples: Sequence[Job]) -> None:
        if not self.options.wait:
            raise UserError(
                "hydra.launcher.wait=false: must be true with hydra/sweeper=optuna, which waits for results"
            )
        self._checked_arrays(examples, "search")

    def search(self, trials: Trials, examples: Sequence[Job]) -> int:
        """Submit the job of each trial when it is proposed, and wait for all of them."""
        from ersparse.storage.locks import exclusive
        from ersparse.sweep.slurm.monitor import QueueMonitor, queue_entries
        from ersparse.sweep.slurm.queue import remove_finished_submissions, slurm_folder

        monitor, submitted = QueueMonitor([]), 0
        root = examples[0].root
        monitor.roots, monitor.name = {root}, trials.search.name
        trials.parallel = trials.parallel or self.options.at_once or TRIALS_AT_ONCE
        self._download(examples)

        def update() -> None:
            nonlocal submitted
            trials.update(monitor)
            new = [job_state.job for job_state in monitor.states[submitted:] if job_state.state == "waiting"]
            if new:
                with exclusive(slurm_folder(root) / ".lock"):
                    entries = queue_entries(monitor.roots)
                    for array in self._arrays([job for job in new if job.folder not in entries], monitor.name):
                        array.submit()
            submitted = len(monitor.states)

        update()
        status = self._wait(monitor, update)
        remove_finished_submissions(root, {job_state.job.folder for job_state in monitor.select("done", "pruned")})
        return status

    def _wait(self, monitor: QueueMonitor, update: Callable[[], object] = lambda: None) -> int:
        """Wait for the jobs; `update` is called several times a second."""
        from ersparse.sweep.progress_table import ProgressTable

        with ProgressTable(monitor) as table:

            def show() -> None:
                update()
                table.update()

            try:
                status = monitor.wait(show)
            except KeyboardInterrupt:
                status = 130
        if status == 130:
            print(_remaining_jobs(monitor))
        return status

    def _submit(self, monitor: QueueMonitor) -> int:
        """Submit the jobs that are neither done nor in the queue, and return their number.

        The queue is read again under a lock, because another command may have submitted some jobs during the checks.
        """
        from ersparse.storage.locks import exclusive
        from ersparse.sweep.slurm.monitor import queue_entries
        from ersparse.sweep.slurm.queue import slurm_folder

        monitor.skip_done()
        self._prepare(monitor.not_queued(queue_entries(monitor.roots)), monitor.name)
        with ExitStack() as stack:
            for root in sorted(monitor.roots):
                stack.enter_context(exclusive(slurm_folder(root) / ".lock"))
            new = monitor.not_queued(queue_entries(monitor.roots))
            for array in self._arrays(new, monitor.name):
                array.submit()
        return len(new)

    def _prepare(self, jobs: Sequence[Job], sweep: str) -> None:
        """Check everything that would make a job fail on its node, and download the data, for nodes have no network."""
        for job in jobs:
            if run_json.in_use(job.folder):
                raise UserError(f"{job.folder}: in use by another process; wait for it, or stop it")
        self._checked_arrays(jobs, sweep)
        self._download(jobs)

    def _download(self, jobs: Sequence[Job]) -> None:
        from ersparse.data.load import load_arrays

        loaded = set()
        for job in jobs:
            assert job.settings
            dataset = job.settings.dataset
            if job.epochs and dataset.model_dump_json() not in loaded:
                loaded.add(dataset.model_dump_json())
                load_arrays(dataset)

    def _checked_arrays(self, jobs: Sequence[Job], sweep: str) -> list[JobArray]:
        """Return the job arrays to submit, after the checks of `preflight` and of SLURM."""
        from ersparse.sweep.slurm.preflight import refuse_prerequisites_on_several_ranks, time_limit_warnings

        refuse_prerequisites_on_several_ranks(jobs)
        arrays = self._arrays(jobs, sweep)
        for array in arrays:
            array.check()
        for line in time_limit_warnings(jobs, self.options.time_limit, self.options.gpus):
            print(f"warning: {line}")
        return arrays

    def _arrays(self, jobs: Sequence[Job], sweep: str) -> list[JobArray]:
        from ersparse.sweep.slurm.submit import make_arrays

        return make_arrays(jobs, self.options, sweep, self.arguments)

    def dry_run(self, jobs: Sequence[Job]) -> None:
        """Print the batch scripts and the jobs; submit nothing."""
        from ersparse.sweep.dry_run import print_jobs
        from ersparse.sweep.slurm.monitor import QueueMonitor

        monitor = QueueMonitor(jobs)
        monitor.skip_done()
        waiting = [job_state.job for job_state in monitor.select("waiting")]
        for array in self._checked_arrays(waiting, monitor.name):
            print(array.script())
        print_jobs(jobs, self.options.at_once or len(jobs))


def _remaining_jobs(monitor: QueueMonitor) -> str:
    notes = [job_state.note for job_state in monitor.select("waiting", "running") if job_state.note]
    jobs = sorted({note.split(" ")[0].split("_")[0] for note in notes})
    return f"the jobs stay in the queue: the same command waits for them, scancel {' '.join(jobs)} takes them out"
