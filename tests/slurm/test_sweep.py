"""Sweeps on a cluster: submission, monitoring, and refusals."""

import os
import pty
import signal
import subprocess
import sys

import pytest
from conftest import ROOT, read
from slurm.conftest import ONE, SMALL, runs_below, wait_until


def test_jobs_outlive_the_command_that_submitted_them(sweep, on_cluster, tmp_path):
    """The same command waits for the jobs in the queue, and submits none."""
    words = ["seed=0,1", "trainer.max_epochs=2"]
    first = sweep(*words)
    wait_until(lambda: len(on_cluster.queue()) == 2)
    jobs = {tuple(job[:2]) for job in on_cluster.queue()}
    first.kill()
    first.communicate()
    again = sweep(*words)
    printed, _ = again.communicate(timeout=300)
    assert again.returncode == 0 and "2 jobs in SLURM's queue: 2 done" in printed, printed
    found = [read(folder)["slurm"] for folder in runs_below(tmp_path).values()]
    assert {tuple(job["job"].split("_")) for job in found} == jobs and {job["restarts"] for job in found} == {0}
    assert not list(tmp_path.glob("outputs/.sweep/slurm/ersparse-*"))  # logs are kept of failed jobs only


def test_a_dry_run_prints_the_batch_script(launch, on_cluster, tmp_path):
    status, printed = launch(*ONE, "seed=0,1", "trainer=cpu", "dry_run=true", "hydra.launcher.setup=[module load x]")
    assert status == 0 and "#SBATCH --array=0-1%2" in printed and "\nmodule load x\n" in printed
    assert "#SBATCH --time=30" in printed and "gpus" not in printed and printed.rstrip().endswith("2 jobs")
    assert not list(tmp_path.iterdir()) and not on_cluster.queue()


@pytest.mark.parametrize(
    "words, message",
    [
        (["hydra.launcher.partition=nowhere"], "hydra.launcher.partition=nowhere: SLURM refuses it"),
        (["hydra.launcher.time_limit=2:00:00"], "hydra.launcher.time_limit=2:00:00: must be at most 1:00:00"),
        (["hydra.launcher.memory=900G"], "trainer.devices=1: trainer.num_nodes=1 nodes with so many tasks"),
        (["trainer.devices=2"], "trainer.devices=2: trainer.num_nodes=1 nodes with so many tasks"),
        (["trainer.num_nodes=3"], "trainer.devices=1: trainer.num_nodes=3 nodes with so many tasks"),
        (["dataset=cifar10", "dataset.download=false", "dataset.root=/nowhere"], "dataset.root=/nowhere"),
    ],
)
def test_an_impossible_request_is_refused_in_one_line(launch, on_cluster, tmp_path, words, message):
    status, printed = launch(*ONE, "seed=0,1", "trainer=cpu", *words)
    assert status == 2 and message in printed and printed.count("\n") == 1, printed
    assert not list(tmp_path.iterdir()) and not on_cluster.queue()


def test_gpus_that_the_cluster_lacks_are_refused(launch, on_cluster):
    """By default a job requests a GPU for each device."""
    status, printed = launch(*ONE, "seed=0,1")
    assert status == 2 and "a GPU for each (hydra.launcher.gpus=true)" in printed and printed.count("\n") == 1, printed


def test_status_shows_jobs_in_the_queue(launch, on_cluster, tmp_path):
    """With --watch on a terminal. Runs that have not started have no folder yet."""
    status, printed = launch(*ONE, *SMALL, "seed=0,1,2", "trainer.max_epochs=50", "hydra.launcher.wait=false")
    assert status == 0 and printed.startswith("3 of 3 jobs submitted"), printed
    command = [sys.executable, "-m", "ersparse", "status", f"{tmp_path}/outputs", "--watch"]
    screen, terminal = pty.openpty()
    watching = subprocess.Popen(command, cwd=ROOT, stdout=terminal, env=os.environ | {"COLUMNS": "200", "LINES": "40"})
    shown = ""

    def all_shown():
        nonlocal shown
        shown += os.read(screen, 100_000).decode()
        return "3 runs: 2 running, 1 queued" in shown

    wait_until(all_shown)
    watching.send_signal(signal.SIGINT)
    assert watching.wait(30) == 0
    assert all(words in shown for words in (" running on n1", " running on n2", " pending ("))


SEARCH = ["hydra/sweeper=optuna", "dataset.validation=0.2", "optimizer.lr=tag(log,interval(0.01,1))"]


def test_a_search_goes_on_with_its_jobs_in_the_queue(sweep, on_cluster, tmp_path):
    words = [*SEARCH, "trainer.max_epochs=2", "hydra.sweeper.n_trials=3", "hydra.launcher.at_once=2"]
    first = sweep(*words)
    wait_until(lambda: len(on_cluster.queue()) == 2)
    jobs = {job[0] for job in on_cluster.queue()}
    first.kill()
    first.communicate()
    again = sweep(*words)
    printed, _ = again.communicate(timeout=300)
    assert again.returncode == 0 and "3 of 3 trials: 3 done, 0 pruned" in printed, printed
    found = [read(folder)["slurm"]["job"].split("_")[0] for folder in runs_below(tmp_path).values()]
    assert len(found) == 3 and jobs < set(found), "the two in the queue were waited for, and one was submitted"


def test_a_hopeless_trial_is_taken_out_of_the_queue(sweep, on_cluster, tmp_path):
    pruner = "hydra.sweeper.pruner={_target_:optuna.pruners.ThresholdPruner,lower:2}"
    search = sweep(*SEARCH, "trainer.max_epochs=900", "hydra.sweeper.n_trials=1", pruner)
    printed, _ = search.communicate(timeout=300)
    assert search.returncode == 0 and "1 of 1 trials: 0 done, 1 pruned" in printed, printed
    (folder,) = runs_below(tmp_path).values()
    record = read(folder)
    assert record["state"] == "preempted" and record["pruned"] and record["error"].startswith("pruned after epoch ")
    assert list((folder / "checkpoints").iterdir()) and not on_cluster.queue()
