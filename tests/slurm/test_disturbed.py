"""Jobs that are preempted, put back and timed out: each goes on from its last checkpoint, to the same bytes."""

import os
import re
import signal

import pytest
from conftest import outcome, read, rows
from slurm.conftest import log_of, runs_below, training_in, wait_until

EPOCHS = 12
WORDS = ["seed=0", f"trainer.max_epochs={EPOCHS}"]


@pytest.fixture(scope="module")
def expected(undisturbed):
    """What comes out where nothing happens."""
    (folder,) = undisturbed(*WORDS).values()
    return outcome(folder)


def preempt(cluster, job, log, outputs):
    """A job of a partition with priority takes the nodes, for a second."""
    cluster.run("sbatch", "--partition=urgent", "--nodes=2", "--output=/dev/null", "--wrap=sleep 1")
    wait_until(lambda: "preempted; requeued 0 times before" in log.read_text())


def put_back(cluster, job, log, outputs):
    """As an administrator does."""
    cluster.run("scontrol", "requeue", job)


def time_out(cluster, job, log, outputs):
    """SLURM looks every 30 s whose time is nearly up: until then the run stands still, so that it can be short."""
    (training,) = training_in(outputs)
    os.kill(training, signal.SIGSTOP)
    cluster.run("scontrol", "update", f"JobId={job}", "EndTime=now+80")
    wait_until(lambda: "SLURM wants the job to stop" in log.read_text())
    os.kill(training, signal.SIGCONT)
    wait_until(lambda: "stopped at its time limit; requeued 0 times before" in log.read_text())


@pytest.mark.parametrize("disturb", [preempt, put_back, time_out])
def test_a_disturbed_run_is_that_of_an_undisturbed_one(sweep, expected, on_cluster, tmp_path, disturb):
    running = sweep(*WORDS, "logger=wandb", "hydra.launcher.signal_before=60")
    outputs = tmp_path / "outputs"
    wait_until(lambda: list(outputs.rglob("epoch00003*.ckpt")) or running.poll() is not None)
    assert running.poll() is None, running.communicate()[0]
    (folder,) = runs_below(outputs).values()
    first = read(folder)
    disturb(on_cluster, first["slurm"]["job"], log_of(outputs, first["slurm"]["job"]), outputs)
    printed, _ = running.communicate(timeout=300)
    assert running.returncode == 0, printed
    last = read(folder)
    assert last["slurm"] == {**last["slurm"], "job": first["slurm"]["job"], "restarts": 1}
    assert last["wandb_id"] == first["wandb_id"]
    assert [path.name[-9:] for path in folder.glob("wandb/offline-run-*")] == [f"-{first['wandb_id']}"] * 2
    (resumed,) = re.findall(r"resuming after epoch (\d+)", (folder / "run.log").read_text())
    assert int(resumed) >= 3 and trained(folder) == [*range(1, EPOCHS + 1)]
    assert [int(row["epoch"]) for row in rows(folder)] == [*range(EPOCHS)]
    assert outcome(folder) == expected


def trained(folder):
    """The epochs, in the order in which they were logged as done, by whichever attempt."""
    return [int(epoch) for epoch in re.findall(r" epoch (\d+)/", (folder / "run.log").read_text())]
