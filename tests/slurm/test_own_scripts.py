"""Runs that SLURM starts without our launcher: allocations, batch scripts of one's own, srun."""

import os
import random
import subprocess
import sys
import time

import pytest
from conftest import ROOT, outcome, read
from slurm.conftest import SMALL, is_done, resumed_after, wait_until

SCRIPT = """\
#!/bin/bash
#SBATCH --ntasks=1 --signal=USR1@60 --requeue --open-mode=append --output={folder}/log
srun --ntasks=1 {run}
if [ $? -ge 128 ]; then scontrol requeue $SLURM_JOB_ID; fi
"""


@pytest.fixture
def command(tmp_path):
    return [sys.executable, str(ROOT / "launch.py"), f"paths.root={tmp_path}/outputs", *SMALL, "seed=0"]


def test_a_run_in_an_allocation_of_several_tasks_is_one_process(on_cluster, tmp_path, command):
    words = ["salloc", "--ntasks=2", *command, "trainer.max_epochs=1"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    (record,) = tmp_path.rglob("run.json")
    assert is_done(record.parent)


def test_several_tasks_of_srun_with_one_command_are_refused(on_cluster, tmp_path, command):
    words = ["srun", "--ntasks=2", *command, "trainer.max_epochs=1"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    lines = [line for line in done.stderr.splitlines() if "srun (SLURM_STEP_NUM_TASKS=2) has started" in line]
    assert done.returncode == 2 and len(lines) == 2 and "Traceback" not in done.stderr, done.stderr
    assert not (tmp_path / "outputs").exists()


def test_tasks_of_srun_may_run_commands_of_their_own(on_cluster, tmp_path, command):
    shell = f"exec {' '.join(command[:-1])} method=draw seed=$SLURM_PROCID"
    done = subprocess.run(["srun", "--ntasks=2", "bash", "-c", shell], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert sorted(path.parent.name for path in tmp_path.rglob("run.json")) == ["s0", "s1"]


def test_a_batch_script_that_is_signalled_and_requeued_gives_the_results_of_an_undisturbed_run(
    on_cluster, tmp_path, command, undisturbed
):
    """USR1 at random moments; ERSPARSE_SIGNALS=10 for more."""
    checkpoints = lambda: {path.name for path in tmp_path.glob("outputs/**/*.ckpt")}
    signals = int(os.environ.get("ERSPARSE_SIGNALS", "2"))
    words = ["seed=0", f"trainer.max_epochs={4 * signals}"]
    (expected,) = undisturbed(*words).values()
    seconds = read(expected)["timing"]["fit_s"]
    script = tmp_path / "job.sh"
    script.write_text(SCRIPT.format(folder=tmp_path, run=" ".join([*command, *words])))
    job = on_cluster.run("sbatch", "--parsable", str(script)).strip()
    for number in range(signals):
        wait_until(lambda n=number: attempts(on_cluster, job) == ("RUNNING", n))
        done = checkpoints()
        if number % 2:  # the other signals arrive at any moment, from the start of the process on
            wait_until(lambda before=done: checkpoints() - before)
        time.sleep(random.uniform(0, 0.5) * seconds / signals)
        on_cluster.run("scancel", "--signal=USR1", job)
        wait_until(lambda n=number: attempts(on_cluster, job)[1] > n)
    wait_until(lambda: [is_done(path.parent) for path in tmp_path.glob("outputs/**/run.json")] == [True])
    (record,) = tmp_path.glob("outputs/**/run.json")
    assert outcome(record.parent) == outcome(expected)
    assert len(resumed_after(record.parent)) >= 1 and "Traceback" not in (tmp_path / "log").read_text()


def attempts(cluster, job):
    """Return the state of a job, and how often it was requeued."""
    found = [(line[2], int(line[3])) for line in cluster.queue() if line[0] == job]
    return found[0] if found else ("ENDED", -1)


def test_a_sweep_may_be_submitted_from_inside_an_allocation(sweep, tmp_path, monkeypatch):
    """Commands of SLURM take the variables of an allocation as their own options."""
    inside = {"NTASKS": "2", "NPROCS": "2", "JOB_ID": "4242", "MEM_PER_CPU": "1", "MEM_PER_NODE": "1", "NNODES": "2"}
    for key, value in (inside | {"CPUS_PER_TASK": "7", "JOB_NUM_NODES": "2", "EXPORT_ENV": "NONE"}).items():
        monkeypatch.setenv(f"SLURM_{key}", value)
    run = sweep("-m", "seed=0", "trainer.max_epochs=1")
    printed, _ = run.communicate(timeout=200)
    assert run.returncode == 0, printed
    assert [is_done(path.parent) for path in tmp_path.rglob("run.json")] == [True]
