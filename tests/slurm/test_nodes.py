"""Runs over two nodes, one rank on each."""

import signal

import pytest
from conftest import outcome, read
from slurm.conftest import is_done, log_of, resumed_after, send, wait_until

WORDS = ["seed=0", "trainer.max_epochs=6"]


@pytest.fixture(scope="module")
def expected(undisturbed):
    """The results of two ranks on one machine, which differ from those of one rank."""
    (folder,) = undisturbed(*WORDS, "trainer.devices=2").values()
    return outcome(folder)


def kill_a_rank(cluster, run):
    send(signal.SIGKILL, run, "n2")
    return "rank 1 of 2 died (SIGKILL)"


def lose_a_node(cluster, run):
    """Kill a node until the job is requeued, by SLURM or by rank 0, whichever notices first."""
    cluster.kill_node("n2")
    cluster.wait_for(lambda: [job[2:] for job in cluster.queue()] == [["PENDING", "1"]])
    cluster.start_node("n2")
    return ""


@pytest.mark.parametrize("disturb", [kill_a_rank, pytest.param(lose_a_node, marks=pytest.mark.by_hand)])
def test_a_run_on_two_nodes_resumes_after_a_failure(submit, expected, on_cluster, disturb):
    run = submit(*WORDS, "trainer.num_nodes=2")
    message = disturb(on_cluster, run)
    wait_until(lambda: is_done(run))
    assert message in log_of(run) and read(run)["slurm"]["restarts"] == 1
    (epoch,) = resumed_after(run)
    assert 3 <= epoch < 6 and outcome(run) == expected
