"""Environment variables of other launchers and schedulers, which do not apply to a run.

A run is one process, or starts its own ranks. Lightning and PyTorch would take the process for one of several ranks
wherever they find the variables of srun, torchrun, LSF or Kubeflow: inside an allocation, in a batch script, or left in
a shell. Imports no torch.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

RANK_PREFIXES = ("PL_", "MASTER_", "TORCHELASTIC_", "SLURM_")  # of variables that other launchers of ranks set
RANK_VARIABLES = {
    "WORLD_SIZE", "RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "LOCAL_WORLD_SIZE", "ERSPARSE_RANK",
    "WANDB_RUN_ID", "WANDB_SERVICE",
}  # fmt: skip
HIDDEN_PREFIXES = ("PL_", "MASTER_", "TORCHELASTIC_", "JSM_NAMESPACE_")
HIDDEN = {
    "WORLD_SIZE", "RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "LOCAL_WORLD_SIZE", "SLURM_NTASKS", "SLURM_PROCID",
}  # fmt: skip
SLURM_CLIENT = {"SLURM_CONF", "SLURM_CLUSTERS", "SLURM_CONF_SERVER"}  # which cluster the commands of SLURM talk to
LAUNCHERS = {  # variables with the number of copies that a launcher has started, and with the number of this copy
    "torchrun": ("WORLD_SIZE", "RANK"),
    "srun": ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID"),  # SLURM_NTASKS is set in every allocation, with or without srun
    "mpirun": ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
    "mpiexec": ("PMI_SIZE", "PMI_RANK"),
    "jsrun": ("JSM_NAMESPACE_SIZE", "JSM_NAMESPACE_RANK"),
}


def without_rank_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment without the variables by which a process would be taken for a rank of another launcher."""
    return {
        key: value
        for key, value in environment.items()
        if key not in RANK_VARIABLES and not key.startswith(RANK_PREFIXES)
    }


@contextmanager
def hidden_rank_variables() -> Iterator[None]:
    """Remove from `os.environ`, during the `with` block, what Lightning and PyTorch read about ranks.

    Ranks that are started in the block do not inherit these variables. The others stay: the user's own code may read
    the job ID or the temporary folder of an allocation.
    """
    with _hidden(lambda key: key in HIDDEN or key.startswith(HIDDEN_PREFIXES)):
        yield


@contextmanager
def outside_allocation() -> Iterator[None]:
    """Remove the variables of a SLURM allocation from `os.environ` during the `with` block.

    A job that is submitted inside an allocation inherits them, and srun takes them for its own options.
    """
    with _hidden(lambda key: key.startswith("SLURM_") and key not in SLURM_CLIENT):
        yield


@contextmanager
def _hidden(is_hidden: Callable[[str], bool]) -> Iterator[None]:
    hidden = {key: os.environ.pop(key) for key in list(os.environ) if is_hidden(key)}
    try:
        yield
    finally:
        os.environ.update(hidden)


def copies_of_this_process() -> str | None:
    """Return which launcher has started this command several times on this machine, such as "srun (...=4)", or None.

    The variables alone do not tell: they are inherited by every process of an allocation, and each task of srun may
    run a command of its own. Another process with the same command, the same folder and another number does.
    """
    for launcher, (size, rank) in LAUNCHERS.items():
        count = os.environ.get(size, "")
        if count.isdecimal() and int(count) > 1 and _has_copy(size, rank):
            return f"{launcher} ({size}={count})"
    return None


def _has_copy(size: str, rank: str) -> bool:
    """Return whether a process with this command and size, and another rank, runs on this machine (Linux only)."""
    command, folder, own = _read("self", "cmdline"), os.getcwd(), os.environ.get(rank)
    for process in Path("/proc").glob("[0-9]*"):
        if command and process.name != str(os.getpid()) and _read(process.name, "cmdline") == command:
            variables = dict(item.split("=", 1) for item in _read(process.name, "environ").split("\0") if "=" in item)
            with suppress(OSError):
                same = os.readlink(process / "cwd") == folder and variables.get(size) == os.environ[size]
                if same and variables.get(rank) != own:
                    return True
    return False


def _read(process: str, name: str) -> str:
    try:
        return Path(f"/proc/{process}/{name}").read_bytes().decode(errors="replace")
    except OSError:  # it has ended, or is another user's
        return ""
