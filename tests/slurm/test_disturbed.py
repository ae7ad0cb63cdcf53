"""Jobs that are preempted, put back and timed out: each goes on from its last checkpoint, to the same bytes."""

import re

import pytest
from conftest import outcome, read, rows
from slurm.conftest import runs_below, wait_until

WORDS = ["seed=0", "trainer.max_epochs=30", "logger=wandb"]


def preempt(cluster, job):
    """A job of a partition with priority takes the nodes, for a second."""
    cluster.run("sbatch", "--partition=urgent", "--nodes=2", "--output=/dev/null", "--wrap=sleep 1")


def put_back(cluster, job):
    """As an administrator does."""
    cluster.run("scontrol", "requeue", job)


def time_out(cluster, job):
    """SLURM tells it `signal_before` seconds before the limit, which now is a minute after its start."""
    cluster.run("scontrol", "update", f"JobId={job}", "TimeLimit=1")


@pytest.mark.parametrize("disturb", [preempt, put_back, time_out])
def test_a_disturbed_run_is_that_of_an_undisturbed_one(sweep, undisturbed, on_cluster, tmp_path, disturb):
    running = sweep(*WORDS, "hydra.launcher.signal_before=40")
    checkpoints = tmp_path / "outputs"
    wait_until(lambda: list(checkpoints.rglob("epoch00003*.ckpt")) or running.poll() is not None)
    assert running.poll() is None, running.communicate()[0]
    (record,) = checkpoints.rglob("run.json")
    first = read(record.parent)
    disturb(on_cluster, first["slurm"]["job"])
    on_cluster.release(first["slurm"]["job"])
    printed, _ = running.communicate(timeout=300)
    assert running.returncode == 0, printed
    last = read(record.parent)
    assert last["slurm"] == {**last["slurm"], "job": first["slurm"]["job"], "restarts": 1}
    assert last["wandb_id"] == first["wandb_id"] is not None
    (resumed,) = re.findall(r"resuming after epoch (\d+)", (record.parent / "run.log").read_text())
    assert int(resumed) >= 3
    assert [int(row["epoch"]) for row in rows(record.parent)] == list(range(30))
    assert [outcome(record.parent)] == [outcome(folder) for folder in undisturbed(*WORDS).values()]
    assert list(runs_below(checkpoints)) == [str(record.parent.relative_to(checkpoints))]
