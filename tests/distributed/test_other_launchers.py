"""A run inside an allocation, or among the variables of another launcher, is one process like any other."""

import os
import subprocess
import sys

import pytest
from conftest import ROOT, TINY, outcome

from ersparse.distributed.other_launchers import hidden_rank_variables

STEP = {"SLURM_STEP_ID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}
SLURM = {"SLURM_JOB_ID": "4242", "SLURM_JOB_NAME": "train.sh", "SLURM_NNODES": "2"}
TORCHRUN = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "node1", "MASTER_PORT": "29500"}
ELASTIC = {"TORCHELASTIC_RUN_ID": "none", "TORCHELASTIC_USE_AGENT_STORE": "True", "GROUP_RANK": "1"}
JSM = {"JSM_NAMESPACE_SIZE": "4", "JSM_NAMESPACE_RANK": "2", "JSM_NAMESPACE_LOCAL_RANK": "2", "LSB_JOBID": "7"}
MPI = {"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "3", "PMI_SIZE": "4", "PMI_RANK": "3", "PMIX_RANK": "3"}
PBS = {"PBS_JOBID": "1.host", "PBS_NP": "4", "PBS_TASKNUM": "2", "PBS_VNODENUM": "1"}
COPY = """
import sys
from ersparse.distributed.other_launchers import copies_of_this_process
print(copies_of_this_process(), flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("variables", [
    pytest.param(SLURM | {"SLURM_NTASKS": "4", "SLURM_NTASKS_PER_NODE": "2"}, id="salloc"),
    pytest.param(SLURM | STEP | {"SLURM_NTASKS": "4", "SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "4"}, id="srun"),
    pytest.param(TORCHRUN | ELASTIC, id="torchrun"),
    pytest.param(JSM | MPI | PBS | {"LSB_DJOB_RANKFILE": "/nowhere", "PL_TRAINER_FAST_DEV_RUN": "1"}, id="others"),
])  # fmt: skip
def test_variables_of_other_launchers_change_nothing(launch, finished_once, only_run, monkeypatch, variables):
    for key, value in variables.items():
        monkeypatch.setenv(key, value)
    status, printed = launch(*TINY)
    assert status == 0, printed
    (undisturbed,) = finished_once.rglob("run.json")
    assert outcome(only_run()) == outcome(undisturbed.parent)
    assert variables.items() <= os.environ.items()


def test_variables_that_name_no_rank_stay_visible(monkeypatch):
    for key, value in (SLURM | {"SLURM_NTASKS": "4", "RANK": "1", "SLURM_TMPDIR": "/local"}).items():
        monkeypatch.setenv(key, value)
    with hidden_rank_variables():
        assert os.environ["SLURM_JOB_ID"] == "4242" and os.environ["SLURM_TMPDIR"] == "/local"
        assert not {"RANK", "SLURM_NTASKS"} & set(os.environ)
    assert os.environ["RANK"] == "1" and os.environ["SLURM_NTASKS"] == "4"


@pytest.fixture
def copy(tmp_path):
    """Starts a process with these variables: (the process, what it says about its copies)."""
    started = []

    def start(variables, *arguments, code=COPY):
        process = subprocess.Popen(
            [sys.executable, "-c", code, *arguments],
            env=os.environ | {"PYTHONPATH": str(ROOT)} | variables,
            cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        started.append(process)
        return process.stdout.readline().strip()

    yield start
    for process in started:
        process.communicate("")


@pytest.mark.skipif(sys.platform != "linux", reason="there is no /proc")
@pytest.mark.parametrize("launcher, size, rank", [
    ("torchrun", "WORLD_SIZE", "RANK"), ("srun", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID"),
    ("mpirun", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
])  # fmt: skip
def test_only_a_second_copy_of_the_same_command_is_one_of_several(copy, launcher, size, rank):
    assert copy({size: "2", rank: "0"}) == "None"
    assert copy({size: "2", rank: "1"}, "seed=1") == "None", "each task runs a command of its own"
    assert copy({}) == "None"
    assert copy({size: "2", rank: "1"}) == f"{launcher} ({size}=2)"


@pytest.mark.skipif(sys.platform != "linux", reason="there is no /proc")
def test_several_copies_are_refused_in_one_line(launch, monkeypatch):
    monkeypatch.setattr("ersparse.runs.checks.copies_of_this_process", lambda: "torchrun (WORLD_SIZE=2)")
    status, printed = launch("method=draw")
    assert status == 2 and printed.count("\n") == 1
    assert printed.startswith("trainer.devices=1: torchrun (WORLD_SIZE=2) has started this command several times;")
