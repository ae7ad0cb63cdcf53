"""Jobs that are preempted, put back and timed out: each goes on from its last checkpoint, to the same bytes."""

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
TOLD = "SLURM wants the job to stop"


@pytest.fixture(scope="module")
def expected(undisturbed):
    """What comes out where nothing happens."""
    (folder,) = undisturbed(*WORDS).values()
    return outcome(folder)


def preempt(cluster, run):
    """A job of a partition with priority takes the node, for a second."""
    node = read(run)["slurm"]["node"]
    cluster.run("sbatch", "--partition=urgent", f"--nodelist={node}", "--output=/dev/null", "--wrap=sleep 1")
    return "preempted; requeued 0 times before"


def put_back(cluster, run):
    """As an administrator does."""
    cluster.run("scontrol", "requeue", read(run)["slurm"]["job"])
    return "DUE TO JOB REQUEUE"


def time_out(cluster, run):
    """SLURM looks every 30 s whose time is nearly up: until then the run stands still, so that it can be short."""
    job, node = read(run)["slurm"]["job"], read(run)["slurm"]["node"]
    told = log_of(run).count(TOLD)
    send(signal.SIGSTOP, run, node)
    cluster.run("scontrol", "update", f"JobId={job}", "EndTime=now+80")
    wait_until(lambda: log_of(run).count(TOLD) > told)
    send(signal.SIGCONT, run, node)
    return "stopped at its time limit; requeued 0 times before"


DISTURBANCES = (preempt, put_back, time_out)


@pytest.mark.parametrize("disturb", DISTURBANCES)
def test_a_disturbed_run_is_that_of_an_undisturbed_one(submit, expected, on_cluster, disturb):
    run = submit(*WORDS, "logger=wandb", "hydra.launcher.signal_before=60")
    first = read(run)
    said = disturb(on_cluster, run)
    wait_until(lambda: is_done(run))
    last = read(run)
    assert said in log_of(run)
    assert last["slurm"] == {**last["slurm"], "job": first["slurm"]["job"], "restarts": 1}
    assert last["wandb_id"] == first["wandb_id"]
    assert [path.name[-9:] for path in run.glob("wandb/offline-run-*")] == [f"-{first['wandb_id']}"] * 2
    (epoch,) = resumed_after(run)
    assert 3 <= epoch < EPOCHS and logged(run) == [*range(1, EPOCHS + 1)]
    assert [int(row["epoch"]) for row in rows(run)] == [*range(EPOCHS)]
    assert outcome(run) == expected


def logged(run):
    """Numbers of the epochs that attempts have finished, in order."""
    return [int(number) for number in re.findall(r" epoch (\d+)/", (run / "run.log").read_text())]


@pytest.mark.slow
@pytest.mark.by_hand
def test_a_sweep_that_is_disturbed_again_and_again(launch, undisturbed, on_cluster, tmp_path):
    """At random moments, ERSPARSE_DISTURBANCES=20 of them, of four runs more."""
    often, epochs = int(os.environ.get("ERSPARSE_DISTURBANCES", "20")), 10
    words = [f"seed=range(0,{often + 4})", f"trainer.max_epochs={epochs}"]
    expected = {name: outcome(run) for name, run in undisturbed(*words).items()}
    keys = ["logger=wandb", "hydra.launcher.wait=false", "hydra.launcher.signal_before=60"]
    assert launch("-m", *ONE, *SMALL, *words, *keys)[0] == 0
    left = random.sample([DISTURBANCES[number % 3] for number in range(often)], often)
    happened = defaultdict(list)  # by run, (what, epochs that were on disk)
    while left:
        run = wait_until(lambda: at_work(on_cluster, tmp_path / "outputs", epochs))
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


def at_work(cluster, root, epochs):
    """One of the runs that a job trains now, with something to lose and something to do."""
    running = {"_".join(job[:2]): int(job[3]) for job in cluster.queue() if job[2] == "RUNNING"}
    runs = []
    for run in runs_below(root).values():
        job = read(run)["slurm"]
        training = running.get(job["job"]) == job["restarts"] == len(resumed_after(run))
        if training and 0 < latest(run) < epochs - 3:
            runs.append(run)
    return random.choice(runs) if runs else None


def latest(run):
    """The last epoch that has a checkpoint."""
    return max((int(path.name[5:10]) for path in (run / "checkpoints").glob("epoch*.ckpt")), default=0)


def restarts(cluster, run):
    """How often SLURM has put the job of a run back."""
    return max((int(job[3]) for job in cluster.queue() if "_".join(job[:2]) == read(run)["slurm"]["job"]), default=0)
