"""Fault tolerance: full and read-only disks, damaged files, signals, two hosts. Finished epochs are never lost."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time

import damage
import pytest
from conftest import KILLED, ROOT, TINY, in_this_process, outcome, read, rows

from ersparse.storage import locks
from ersparse.storage import run_folder as folders
from ersparse.storage.run_folder import RunFolder

pytestmark = pytest.mark.slow  # each worker that runs one of these tests trains two networks first

EPOCHS = [*KILLED, "trainer.max_epochs=6"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    root = tmp_path_factory.mktemp("undisturbed")
    assert in_this_process(root, *EPOCHS)[0] == 0
    return outcome(next(root.rglob("run.json")).parent)


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """Return the folder of a run of six epochs that was killed when its third checkpoint appeared."""
    root = tmp_path_factory.mktemp("killed")
    run = subprocess.Popen([sys.executable, ROOT / "launch.py", *EPOCHS, f"paths.root={root}"], cwd=root)
    while not list(root.glob("runs/*/s0/checkpoints/epoch00003*")) and run.poll() is None:
        time.sleep(0.005)
    run.kill()
    run.wait()
    (record,) = root.rglob("run.json")
    return record.parent


@pytest.fixture
def copy(killed, tmp_path):
    """Return (root, folder) of a copy of the interrupted run."""
    shutil.copytree(killed.parents[2], tmp_path / "copy")
    (record,) = (tmp_path / "copy").rglob("run.json")
    return tmp_path / "copy", record.parent


@pytest.mark.parametrize("spoil", [damage.flip_a_bit, damage.newer])
def test_a_damaged_checkpoint_is_logged_and_costs_an_epoch(copy, undisturbed, launch, spoil):
    """In the same process as the test: what is asked of a run is the same bits, whoever starts it.

    That every other damage is seen as these two are: test_checkpoints.
    """
    root, folder = copy
    newest = sorted((folder / "checkpoints").glob("*.ckpt"))[-1]
    spoil(newest)
    status, printed = launch(*EPOCHS, f"paths.root={root}")
    assert status == 0 and f"checkpoint {newest.name[:10]}" in printed and "going back to the one before" in printed
    assert outcome(folder) == undisturbed


def test_without_any_checkpoint_a_run_starts_over(copy, undisturbed, launch):
    root, folder = copy
    for path in (folder / "checkpoints").glob("*.ckpt"):
        path.write_bytes(b"")
    status, printed = launch(*EPOCHS, f"paths.root={root}")
    assert status == 0 and printed.count("going back to the one before") == 2 and "resuming" not in printed
    assert outcome(folder) == undisturbed


@pytest.mark.parametrize("part", [0.5, 0.0])
def test_a_truncated_record_is_rewritten(copy, undisturbed, launch, part):
    root, folder = copy
    data = (folder / "run.json").read_bytes()
    (folder / "run.json").write_bytes(data[: int(part * len(data))])
    status, printed = launch(*EPOCHS, f"paths.root={root}")
    assert status == 0 and "run.json is damaged; it is written anew" in printed and "resuming after epoch" in printed
    assert outcome(folder) == undisturbed


def test_a_record_of_a_newer_schema_is_refused(copy, launch):
    root, folder = copy
    (folder / "run.json").write_text(json.dumps(read(folder) | {"schema": 2}))
    status, printed = launch(*EPOCHS, f"paths.root={root}")
    assert status == 2 and "schema 2, must be 1 or less; update ersparse" in printed and printed.count("\n") == 1


@pytest.fixture
def small_disk(tmp_path):
    """Mount a file system of about one megabyte in memory."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1200k", "tmpfs", disk]).returncode:
        pytest.skip("only root mounts file systems")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_a_full_disk_fails_the_run_until_space_is_freed(copy, small_disk, undisturbed, launch):
    """The run fails with one line, keeps its finished epochs, and resumes once there is space."""
    ballast, checkpoint = small_disk / "ballast", max((copy[1] / "checkpoints").glob("*.ckpt"))
    free = int(1.5 * checkpoint.stat().st_size) + 60_000  # room for one checkpoint, not for two, and for other files
    ballast.write_bytes(bytes(1200 * 1024 - free))
    status, printed = launch(*EPOCHS, f"paths.root={small_disk}")
    (folder,) = [path.parent for path in small_disk.rglob("run.json")]
    assert status == 1 and "Traceback" not in printed
    assert "No space left on device; the same command resumes after the last finished epoch" in printed
    assert read(folder)["state"] == "failed" and "No space left" in read(folder)["error"]
    assert not list(folder.rglob("*.partial"))
    done = len(rows(folder))
    ballast.unlink()
    status, printed = launch(*EPOCHS, f"paths.root={small_disk}")
    assert (status == 0 and f"resuming after epoch {done - 1}" in printed) or f"resuming after epoch {done}" in printed
    assert outcome(folder) == undisturbed


def test_a_disk_full_from_the_start_is_an_error(small_disk, launch):
    (small_disk / "ballast").write_bytes(bytes(1200 * 1024 - 4096 * 8))
    status, printed = launch(*TINY, f"paths.root={small_disk}")
    assert status == 1 and "No space left on device" in printed and "Traceback" not in printed


def test_an_unwritable_folder_is_an_error(small_disk, launch):
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    status, printed = launch(*TINY, f"paths.root={small_disk}")
    assert status == 2 and printed.startswith("paths.root: ") and "Read-only file system" in printed
    assert printed.count("\n") == 1


@pytest.mark.slow
def test_signals_preempt_the_run(copy, process, undisturbed, launch):
    """SIGTERM preempts the run, and so does Ctrl-C pressed twice, the second time during cleanup; it then resumes."""
    root, folder = copy
    for signals, pause in (([signal.SIGINT, signal.SIGINT], random.uniform(0, 0.1)), ([signal.SIGTERM], 0.0)):
        before = max((folder / "checkpoints").glob("*.ckpt"))
        run = process(*EPOCHS, f"paths.root={root}")
        while max((folder / "checkpoints").glob("*.ckpt")) == before and run.poll() is None:
            time.sleep(0.002)
        for number in signals:
            run.send_signal(number)
            time.sleep(pause)
        printed, _ = run.communicate(timeout=60)
        assert run.returncode == 130 and "Traceback" not in printed, printed
    assert "interrupted; the same command resumes" in printed and read(folder)["state"] == "preempted"
    assert launch(*EPOCHS, f"paths.root={root}")[0] == 0 and outcome(folder) == undisturbed


@pytest.mark.slow
def test_a_heartbeat_protects_a_run_on_another_host(copy, launch, monkeypatch):
    """The run on the other host counts as running as long as it touches the lock."""
    root, folder = copy
    monkeypatch.setattr(locks, "HEARTBEAT_INTERVAL", 0.5)
    RunFolder(folder).write(read(folder) | {"host": "elsewhere", "state": "running"})
    over = threading.Event()

    def alive():
        while not over.wait(0.3):
            os.utime(folder / folders.LOCK)

    other = threading.Thread(target=alive)
    other.start()
    status, printed = launch(*EPOCHS, f"paths.root={root}")
    over.set()
    other.join()
    assert status == 2 and "in use on elsewhere; wait for it, or stop it" in printed
    assert "the run was last active on elsewhere; waiting 1.5 s for its heartbeat" in printed
    status, printed = launch(*EPOCHS, f"paths.root={root}")
    assert status == 0 and read(folder)["state"] == "done"


def test_a_run_updates_its_heartbeat(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "HEARTBEAT_INTERVAL", 0.05)
    heartbeat = lambda: (tmp_path / folders.LOCK).stat().st_mtime_ns
    folder = RunFolder(tmp_path)
    with folder.acquire():
        first = heartbeat()
        time.sleep(0.5)
        assert heartbeat() > first
    last = heartbeat()
    time.sleep(0.2)
    assert heartbeat() == last


WITHOUT_FLOCK = """
import errno, fcntl
def flock(*_): raise OSError(errno.ENOSYS, "Function not implemented")
fcntl.flock = flock
from ersparse.storage import locks
locks.HEARTBEAT_INTERVAL, locks.SETTLE_TIME = 0.3, 0.2
"""


@pytest.mark.slow
def test_a_run_without_flock_that_is_killed_resumes_to_the_same_results(process, tmp_path, undisturbed):
    """SIGKILL at random times; ERSPARSE_KILLS=10 for more."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(WITHOUT_FLOCK)
    around = {"PYTHONPATH": os.pathsep.join([str(tmp_path / "site"), str(ROOT)])}
    for _ in range(int(os.environ.get("ERSPARSE_KILLS", "2"))):
        run = process(*EPOCHS, env=around)
        while not list(tmp_path.rglob("run.json")) and run.poll() is None:
            time.sleep(0.01)
        time.sleep(random.uniform(0, 3))
        run.kill()
        run.communicate()
    run = process(*EPOCHS, env=around)
    printed, _ = run.communicate(timeout=300)
    assert run.returncode == 0, printed
    (record,) = tmp_path.rglob("run.json")
    assert outcome(record.parent) == undisturbed
