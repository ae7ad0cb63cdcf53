"""A cluster for the tests that need one."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from conftest import ROOT
from slurm.cluster import Cluster, can_run

SMALL = ["model.width=0.25", "dataset.batch_size=128", "trainer=cpu"]
ONE = ["hydra/launcher=slurm", "hydra.launcher.cpus_per_task=1", "hydra.launcher.time_limit=0:30"]


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.slurm)


@pytest.fixture(scope="session")
def cluster():
    if not can_run():
        pytest.skip("SLURM is not installed, or this is not root")
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))  # short: munge's socket lies in it
    with Cluster(folder) as running:
        yield running
    shutil.rmtree(folder)


@pytest.fixture
def on_cluster(cluster, monkeypatch):
    """The cluster, which the commands of this test use; it has no jobs before and after."""
    for key, value in (cluster.environment | {"OMP_NUM_THREADS": "1"}).items():
        monkeypatch.setenv(key, value)
    yield cluster
    cluster.empty()


@pytest.fixture
def sweep(on_cluster, tmp_path):
    """Starts `python launch.py hydra/launcher=slurm ...` as a process of its own, its outputs in this test's folder."""

    def start(*words: str) -> subprocess.Popen:
        command = [sys.executable, str(ROOT / "launch.py"), *ONE, f"paths.root={tmp_path}/outputs", *SMALL, *words]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen(command, cwd=tmp_path, **pipes)

    return start


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory):
    """Folders of the same runs on this machine, by their names below the root."""

    def run(*words: str) -> dict[str, Path]:
        root = tmp_path_factory.mktemp("undisturbed")
        command = [sys.executable, str(ROOT / "launch.py"), "-m", f"paths.root={root}", *SMALL, *words]
        around = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, env=around)
        assert done.returncode == 0, done.stdout + done.stderr
        return runs_below(root)

    return run


def runs_below(root: Path) -> dict[str, Path]:
    return {str(path.parent.relative_to(root)): path.parent for path in sorted(root.rglob("run.json"))}


def log_of(root: Path, job: str) -> Path:
    """What a job of the one submission below a root prints, in all its attempts."""
    (log,) = (root / ".sweep" / "slurm").glob(f"*/{job}_0_log.out")
    return log


def training_in(root: Path) -> list[int]:
    """Numbers of the processes that work on runs below a root, on whichever node."""
    commands = {path.parent.name: path.read_bytes().split(b"\0") for path in Path("/proc").glob("[0-9]*/cmdline")}
    return [
        int(pid) for pid, words in commands.items() if {f"paths.root={root}".encode(), b"hydra.mode=RUN"} <= {*words}
    ]


def wait_until(condition, seconds=120.0):
    """Returns what `condition` returns, once it is true."""
    until = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < until, f"waited for {seconds:g} s"
        time.sleep(0.1)
    return found
