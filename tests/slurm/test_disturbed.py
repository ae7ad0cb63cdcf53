"""Jobs that are preempted, put back and timed out: each goes on from its last checkpoint, to the same bytes."""

import re
import signal

import pytest
from conftest import outcome, read, rows
from slurm.conftest import is_done, log_of, resumed_after, send, wait_until

EPOCHS = 8
WORDS = ["seed=0", f"trainer.max_epochs={EPOCHS}"]


@pytest.fixture(scope="module")
def expected(undisturbed):
    """What comes out where nothing happens."""
    (folder,) = undisturbed(*WORDS).values()
    return outcome(folder)


def preempt(cluster, run):
    """A job of a partition with priority takes the nodes, for a second."""
    cluster.run("sbatch", "--partition=urgent", "--nodes=2", "--output=/dev/null", "--wrap=sleep 1")
    return "preempted; requeued 0 times before"


def put_back(cluster, run):
    """As an administrator does."""
    cluster.run("scontrol", "requeue", read(run)["slurm"]["job"])
    return "DUE TO JOB REQUEUE"


def time_out(cluster, run):
    """SLURM looks every 30 s whose time is nearly up: until then the run stands still, so that it can be short."""
    job, node = read(run)["slurm"]["job"], read(run)["slurm"]["node"]
    send(signal.SIGSTOP, run, node)
    cluster.run("scontrol", "update", f"JobId={job}", "EndTime=now+80")
    wait_until(lambda: "SLURM wants the job to stop" in log_of(run))
    send(signal.SIGCONT, run, node)
    return "stopped at its time limit; requeued 0 times before"


@pytest.mark.parametrize("disturb", [preempt, put_back, time_out])
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
    logged = re.findall(r" epoch (\d+)/", (run / "run.log").read_text())
    assert 3 <= epoch < EPOCHS and [int(number) for number in logged] == [*range(1, EPOCHS + 1)]
    assert [int(row["epoch"]) for row in rows(run)] == [*range(EPOCHS)]
    assert outcome(run) == expected
