"""Fixtures of the tests on a SLURM cluster."""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import pytest
from conftest import ROOT, read
from slurm.cluster import Cluster, can_run

from ersparse.sweep.slurm.queue import latest_log

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
    """The cluster that the commands of this test use. It has no jobs before and after the test."""
    for key, value in (cluster.environment | {"OMP_NUM_THREADS": "1"}).items():
        monkeypatch.setenv(key, value)
    monkeypatch.delenv("ERSPARSE_PARENT", raising=False)  # left by commands that earlier tests ran in this process
    yield cluster
    cluster.cancel_all()


@pytest.fixture
def sweep(on_cluster, tmp_path):
    """Starts `python launch.py hydra/launcher=slurm ...` as a process, with its outputs in this test's folder."""

    def start(*words: str) -> subprocess.Popen:
        command = [sys.executable, str(ROOT / "launch.py"), *ONE, f"paths.root={tmp_path}/outputs", *SMALL, *words]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen(command, cwd=tmp_path, **pipes)

    return start


@pytest.fixture
def submit(launch, on_cluster, tmp_path):
    """Submits one run, and returns its folder once it has three checkpoints."""

    def submitted(*words: str) -> Path:
        status, printed = launch(*ONE, *SMALL, *words, "hydra.launcher.wait=false")
        assert status == 0 and printed.startswith("1 of 1 jobs submitted"), printed
        wait_until(lambda: list(tmp_path.rglob("epoch00003*.ckpt")))
        (folder,) = runs_below(tmp_path / "outputs").values()
        return folder

    return submitted


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory):
    """Runs without SLURM on this machine, and returns their folders by their names below the root."""

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


def log_of(run: Path) -> str:
    """Return the output of the job of a run, in all its attempts."""
    log = latest_log(root_of(run), run)
    return log.read_text() if log else ""


def root_of(run: Path) -> Path:
    return run.parent.parent.parent


def is_done(run: Path) -> bool:
    return read(run)["state"] == "done"


def resumed_after(run: Path) -> list[int]:
    """Return the epochs after which attempts resumed."""
    return [int(epoch) for epoch in re.findall(r"resuming after epoch (\d+)", (run / "run.log").read_text())]


def send(number: signal.Signals, run: Path, node: str) -> None:
    """Send a signal to the processes that a run's latest attempt has started on a node."""
    job = f'"job": "{read(run)["slurm"]["job"]}", "node": "{node}"'
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            known = (process / "environ").read_bytes() + (process / "cmdline").read_bytes()
            if job.encode() in known and str(root_of(run)).encode() in known:
                os.kill(int(process.name), number)


def wait_until(condition, seconds=300.0):
    """Wait until `condition()` is true, and return its value."""
    until = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < until, f"waited for {seconds:g} s"
        time.sleep(0.1)
    return found
