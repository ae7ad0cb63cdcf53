"""Jobs that are preempted, requeued or stopped at their time limit resume to the results of undisturbed runs."""

import os
import random
import re
import signal
import time
from collections import defaultdict

import pytest
from conftest import outcome, read, rows
from slurm.conftest import ONE, SMALL, is_done, log_of, resumed_after, runs_below, send, wait_until

EPOCHS = 8
WORDS = ["seed=0", f"trainer.max_epochs={EPOCHS}"]
STOP_MESSAGE = "SLURM asks the job to stop"


@pytest.fixture(scope="module")
def expected(undisturbed):
    """The results of an undisturbed run."""
    (folder,) = undisturbed(*WORDS).values()
    return outcome(folder)


def preempt(cluster, run):
    """Submit a job to a partition with a higher priority, which takes the node for a second."""
    node = read(run)["slurm"]["node"]
    cluster.run("sbatch", "--partition=urgent", f"--nodelist={node}", "--output=/dev/null", "--wrap=sleep 1")
    return "preempted; requeued 0 times before"


def requeue(cluster, run):
    """Requeue the job as an administrator does."""
    cluster.run("scontrol", "requeue", read(run)["slurm"]["job"])
    return "DUE TO JOB REQUEUE"


def time_out(cluster, run):
    """Move the time limit close to now. The run is suspended until SLURM notices, as it checks limits every 30 s."""
    job, node = read(run)["slurm"]["job"], read(run)["slurm"]["node"]
    stops = log_of(run).count(STOP_MESSAGE)
    send(signal.SIGSTOP, run, node)
    cluster.run("scontrol", "update", f"JobId={job}", "EndTime=now+80")
    wait_until(lambda: log_of(run).count(STOP_MESSAGE) > stops)
    send(signal.SIGCONT, run, node)
    return "stopped at its time limit; requeued 0 times before"


DISTURBANCES = (preempt, requeue, time_out)


@pytest.mark.parametrize("disturb", DISTURBANCES)
def test_a_disturbed_run_gives_the_results_of_an_undisturbed_one(submit, expected, on_cluster, disturb):
    run = submit(*WORDS, "logger=wandb", "hydra.launcher.signal_before=60")
    first = read(run)
    message = disturb(on_cluster, run)
    wait_until(lambda: is_done(run))
    last = read(run)
    assert message in log_of(run)
    assert last["slurm"] == {**last["slurm"], "job": first["slurm"]["job"], "restarts": 1}
    assert last["wandb_id"] == first["wandb_id"]
    assert [path.name[-9:] for path in run.glob("wandb/offline-run-*")] == [f"-{first['wandb_id']}"] * 2
    (epoch,) = resumed_after(run)
    assert 3 <= epoch < EPOCHS and logged(run) == [*range(1, EPOCHS + 1)]
    assert [int(row["epoch"]) for row in rows(run)] == [*range(EPOCHS)]
    assert outcome(run) == expected


def logged(run):
    """Return the numbers of the epochs that attempts have finished, in order."""
    return [int(number) for number in re.findall(r" epoch (\d+)/", (run / "run.log").read_text())]


@pytest.mark.slow
@pytest.mark.by_hand
def test_a_sweep_that_is_disturbed_repeatedly_gives_the_results_of_an_undisturbed_one(
    launch, undisturbed, on_cluster, tmp_path
):
    """ERSPARSE_DISTURBANCES=20 disturbances at random times, among four more runs than that."""
    often, epochs = int(os.environ.get("ERSPARSE_DISTURBANCES", "20")), 10
    words = [f"seed=range(0,{often + 4})", f"trainer.max_epochs={epochs}"]
    expected = {name: outcome(run) for name, run in undisturbed(*words).items()}
    keys = ["logger=wandb", "hydra.launcher.wait=false", "hydra.launcher.signal_before=60"]
    assert launch("-m", *ONE, *SMALL, *words, *keys)[0] == 0
    left = random.sample([DISTURBANCES[number % 3] for number in range(often)], often)
    happened = defaultdict(list)  # by run, (what, epochs that were on disk)
    while left:
        run = wait_until(lambda: training_run(on_cluster, tmp_path / "outputs", epochs))
        time.sleep(random.uniform(0, 1))
        before, kept = read(run)["slurm"]["restarts"], latest(run)
        left[-1](on_cluster, run)
        wait_until(lambda run=run, before=before: is_done(run) or restarts(on_cluster, run) > before)
        if not is_done(run):
            happened[run].append((left.pop().__name__, kept))
    found = runs_below(tmp_path / "outputs")
    wait_until(lambda: found.update(runs_below(tmp_path / "outputs")) or len(found) == len(expected), 1200)
    wait_until(lambda: all(is_done(run) for run in found.values()), 1200)
    for name, run in found.items():
        print(name, happened[run], resumed_after(run), logged(run), read(run)["wandb_id"])
        assert read(run)["slurm"]["restarts"] == len(resumed_after(run)) == len(happened[run])
        assert all(after >= kept > 0 for after, (_, kept) in zip(resumed_after(run), happened[run], strict=True))
        assert set(logged(run)) == {*range(1, epochs + 1)} and len(logged(run)) <= epochs + len(happened[run])
        assert {path.name[-8:] for path in run.glob("wandb/offline-run-*")} == {read(run)["wandb_id"]}
    assert len({read(run)["wandb_id"] for run in found.values()}) == len(found)
    assert {name: outcome(run) for name, run in found.items()} == expected


def training_run(cluster, root, epochs):
    """Return a run that is training, with a checkpoint and more than three epochs left; None if there is none."""
    running = {"_".join(job[:2]): int(job[3]) for job in cluster.queue() if job[2] == "RUNNING"}
    runs = []
    for run in runs_below(root).values():
        job = read(run)["slurm"]
        training = running.get(job["job"]) == job["restarts"] == len(resumed_after(run))
        if training and 0 < latest(run) < epochs - 3:
            runs.append(run)
    return random.choice(runs) if runs else None


def latest(run):
    """Return the last epoch that has a checkpoint."""
    return max((int(path.name[5:10]) for path in (run / "checkpoints").glob("epoch*.ckpt")), default=0)


def restarts(cluster, run):
    """Return how often the job of a run was requeued."""
    return max((int(job[3]) for job in cluster.queue() if "_".join(job[:2]) == read(run)["slurm"]["job"]), default=0)
