"""Locks on file systems without flock, between hosts, and after the loss of a node."""

import errno
import fcntl
import os
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, contextmanager

import pytest
from conftest import ROOT

from ersparse.errors import RunFailed, UserError
from ersparse.storage import locks
from ersparse.storage.locks import HeartbeatLock, LockHeld, exclusive, is_held
from ersparse.storage.run_folder import RunFolder
from ersparse.storage.run_json import in_use

RACE = """
import errno, fcntl, sys, time
from pathlib import Path
from ersparse.storage import locks
def flock(*_): raise OSError(errno.ENOSYS, "Function not implemented")
fcntl.flock = flock
locks.HEARTBEAT_INTERVAL, locks.SETTLE_TIME = 0.4, 0.4
print("ready", flush=True)
sys.stdin.readline()
lock = locks.HeartbeatLock(Path(sys.argv[1]))
try:
    lock.acquire()
    print("owner", flush=True)
    sys.stdin.readline()
    lock.release()
except locks.LockHeld:
    print("held", flush=True)
"""


@pytest.fixture(autouse=True)
def short_intervals(monkeypatch):
    monkeypatch.setattr(locks, "HEARTBEAT_INTERVAL", 0.1)
    monkeypatch.setattr(locks, "SETTLE_TIME", 0.1)


@pytest.fixture
def no_flock(request, monkeypatch):
    number = getattr(request, "param", errno.ENOSYS)

    def flock(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)


@pytest.fixture
def unshared_flock(monkeypatch):
    """A file system whose flock does not span hosts: on this one it is always granted."""
    monkeypatch.setattr(fcntl, "flock", lambda *_: None)


@contextmanager
def acquired(path):
    lock = HeartbeatLock(path)
    lock.acquire()
    try:
        yield lock
    finally:
        lock.release()


def claim_of(host, boot="another boot"):
    return f"4242\n{host}\n{boot}\n0123\n"


@pytest.mark.parametrize("no_flock", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK], indirect=True)
def test_the_lock_is_free_before_and_after(tmp_path, no_flock):
    path = tmp_path / ".lock"
    assert not is_held(path)
    for _ in range(2):
        with acquired(path):
            assert is_held(path)
            with pytest.raises(LockHeld):
                HeartbeatLock(path).acquire()
        assert path.read_bytes() == b"" and not is_held(path)


@pytest.mark.parametrize("claim", ["424242\nnode017\n", claim_of("node017"), "damaged", "1\n"])
def test_the_claim_of_a_lost_node_is_void_after_a_while(tmp_path, no_flock, claim):
    path = tmp_path / ".lock"
    path.write_text(claim)
    with acquired(path):
        assert is_held(path)


def test_the_claim_of_a_process_that_was_killed_here_is_void_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "HEARTBEAT_INTERVAL", 100.0)
    path = tmp_path / ".lock"
    for claim in (claim_of("a container", locks._boot_id()), f"1\n{socket.gethostname()}\n"):
        path.write_text(claim)
        assert not is_held(path)
        with acquired(path):
            pass


@pytest.mark.parametrize("skew", [-3600, 0, 3600])
def test_an_owner_on_another_host_is_alive_whatever_its_clock_says(tmp_path, unshared_flock, skew):
    path, over = tmp_path / ".lock", threading.Event()
    path.write_text(claim_of("elsewhere"))

    def beat():
        while not over.wait(0.05):
            os.utime(path, (time.time() + skew,) * 2)

    owner = threading.Thread(target=beat)
    owner.start()
    with pytest.raises(LockHeld) as held:
        HeartbeatLock(path).acquire()
    assert held.value.host == "elsewhere"
    over.set()
    owner.join()
    with acquired(path):
        pass


def test_the_state_of_a_run_on_another_host_is_seen_by_its_heartbeat(tmp_path, unshared_flock):
    (tmp_path / ".lock").write_text(claim_of("elsewhere"))
    assert in_use(tmp_path)
    os.utime(tmp_path / ".lock", (time.time() - 3600,) * 2)
    assert not in_use(tmp_path)


def test_an_owner_that_was_suspended_stops_before_it_writes(tmp_path, monkeypatch):
    interrupted = []
    monkeypatch.setattr("_thread.interrupt_main", lambda: interrupted.append("once"))
    folder = RunFolder(tmp_path)
    with folder.acquire():
        folder.write({"state": "running"})
        (tmp_path / ".lock").write_text(claim_of("elsewhere"))
        with pytest.raises(RunFailed, match="taken over by another process"):
            folder.write({"state": "done"})
        time.sleep(0.5)
    assert interrupted == ["once"] and folder.read()["state"] == "running"
    assert (tmp_path / ".lock").read_text() == claim_of("elsewhere"), "the lock of the new owner is not released"


def test_of_simultaneous_claims_where_flock_is_not_shared_one_survives(tmp_path, unshared_flock):
    lost, path = [], tmp_path / ".lock"
    first, second = (HeartbeatLock(path, on_loss=lambda n=n: lost.append(n)) for n in (1, 2))
    second._check_claim = lambda *_: None  # it looked before the first had written
    first.acquire()
    second.acquire()
    time.sleep(0.5)
    assert lost == [1] and second.is_owned() and not first.is_owned()
    first.release()
    assert second.is_owned()
    second.release()


def test_a_run_waits_for_no_lock_that_its_host_has_lost(tmp_path, no_flock):
    (tmp_path / ".lock").write_text("424242\nnode017\n")
    (tmp_path / "run.json").write_text('{"state": "running", "host": "node017"}')
    with RunFolder(tmp_path).acquire():
        with pytest.raises(UserError, match="in use by another process; wait for it, or stop it"):
            with RunFolder(tmp_path).acquire():
                pass


def test_a_look_at_the_lock_does_not_refuse_a_run(tmp_path):
    """`ersparse status` and sweeps hold a shared lock for an instant."""
    path = tmp_path / ".lock"
    path.touch()
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        threading.Timer(0.05, lambda: fcntl.flock(file, fcntl.LOCK_UN)).start()
        with acquired(path):
            pass


def test_work_that_one_process_does_for_all_is_waited_for(tmp_path, no_flock):
    path, order = tmp_path / "cache" / "data.lock", []

    def other():
        with exclusive(path, product=path):
            order.append("other")

    with ExitStack() as held:
        held.enter_context(exclusive(path))
        waiting = threading.Thread(target=other)
        waiting.start()
        time.sleep(0.3)
        order.append("first")
    waiting.join()
    assert order == ["first", "other"]


@pytest.mark.parametrize("stale", [False, True])
def test_of_simultaneous_processes_without_flock_one_is_the_owner(tmp_path, stale):
    path = tmp_path / ".lock"
    if stale:
        path.write_text("424242\nnode017\n")
    command, pipes = [sys.executable, "-c", RACE, str(path)], {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    racers = [subprocess.Popen(command, cwd=ROOT, text=True, **pipes) for _ in range(4)]
    assert {racer.stdout.readline() for racer in racers} == {"ready\n"}
    for racer in racers:
        racer.stdin.write("\n")
        racer.stdin.flush()
    said = sorted(racer.stdout.readline() for racer in racers)
    for racer in racers:
        racer.communicate("\n")
    assert said == ["held\n"] * 3 + ["owner\n"]
    assert path.read_bytes() == b""
