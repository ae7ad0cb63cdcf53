"""Locks between processes, on one host or several, on any file system. Imports no torch.

A lock is a file. Its owner holds `flock` on it where the file system has that, and writes a claim into it: process ID,
host, boot ID of the machine, and a token of its own. It touches the file every `HEARTBEAT_INTERVAL` seconds, and
empties it in the end. Nothing else is needed of a file system than to open, read and write: no hard links, no exclusive
creation, no clocks that agree. Who wants the lock does the following.

1. If `flock` is refused, the lock is held.
2. An empty file is free. So is the claim of a process on this machine that has lost its `flock`, for the kernel takes
   it away from a process that ends. Any other claim is watched for three intervals: `flock` may not exist, or may not
   span hosts. If the file changes meanwhile, its owner lives and the lock is held. Only changes count: the clocks of
   two hosts and of a file server may differ. If nothing changes, the owner is lost and its claim void.
3. It writes its own claim. Where there is no `flock`, two processes may have come here at the same time: it waits
   `SETTLE_TIME` and reads the claim again. The last one that wrote is the owner, and the others see that the lock is
   held (Fischer's timed mutual exclusion: Lamport, A fast mutual exclusion algorithm, 1987, section 2).
4. An owner that was suspended for longer than it is watched has lost the lock without knowing. So it reads the claim
   at every heartbeat, and a run before it writes its record: if the claim is not its own, it stops.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

HEARTBEAT_INTERVAL = 5.0  # seconds between two updates of the modification time
SETTLE_TIME = 2.0  # seconds; longer than a process takes from its last look at a free lock to its claim
CONTENTION_RETRIES = 3  # `is_held` of another process holds a shared lock for an instant
RECENT = 60.0  # seconds since a heartbeat within which the owner counts as alive, for clocks that may differ
HELD_ERRORS = {errno.EAGAIN, errno.EACCES}
UNSUPPORTED_ERRORS = {errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOLCK, errno.EINVAL}

log = logging.getLogger("ersparse")


class LockHeld(Exception):
    """Another process holds the lock.

    Attributes:
        host: the host on which it runs; None if it is this one, or unknown.
    """

    def __init__(self, host: str | None = None) -> None:
        super().__init__(host)
        self.host = None if host == socket.gethostname() else host


class HeartbeatLock:
    """A lock that one process holds at a time (see the module). An instance is acquired once.

    Args:
        path: the lock file, whose folder exists. It is never removed.
        owner: what the message about a lost owner calls it.
        on_loss: called from a thread once another process has taken the lock over.
    """

    def __init__(self, path: Path, owner: str = "the process", on_loss: Callable[[], None] | None = None) -> None:
        self.path, self.owner, self.on_loss = path, owner, on_loss
        self.claim, self.descriptor = b"", -1
        self.over, self.heartbeat = threading.Event(), threading.Thread(target=self._beat, daemon=True)

    def acquire(self, last_host: str | None = None) -> None:
        """Take the lock, or raise at once if a process on this machine holds it.

        Args:
            last_host: another host on which the last owner ran; older versions of it leave no claim.

        Raises:
            LockHeld: another process holds the lock.
            OSError: the file cannot be opened or written.
        """
        self.descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            supported = _flock_with_retries(self.descriptor)
            self._check_claim(supported, last_host)
            self._write_claim(needed=not supported)
            self.heartbeat.start()
            if not supported:
                self._settle()
        except BaseException:
            self.release()
            raise

    def is_owned(self) -> bool:
        """Return whether the claim is still this process's own; True if there is none, or it cannot be read."""
        try:
            return not self.claim or self._read()[0] == self.claim
        except OSError:
            return True

    def release(self) -> None:
        """Give the lock back."""
        self.over.set()
        if self.heartbeat.is_alive():
            self.heartbeat.join()
        with suppress(OSError):
            if self.claim and self.is_owned():
                os.truncate(self.path, 0)
        os.close(self.descriptor)

    def _check_claim(self, supported: bool, last_host: str | None) -> None:
        """Return if the lock is free or its owner is lost.

        Raises:
            LockHeld: the owner lives.
        """
        before = self._read()
        void = not before[0] or (supported and _is_of_this_machine(before[0]))
        if void and last_host is None:
            return
        host = (last_host if void else _host_of(before[0])) or "an unknown host"
        log.info(f"{self.owner} was last active on {host}; waiting {3 * HEARTBEAT_INTERVAL:g} s for its heartbeat")
        until = time.monotonic() + 3 * HEARTBEAT_INTERVAL
        while time.monotonic() < until:
            time.sleep(HEARTBEAT_INTERVAL / 10)
            if self._read() != before:
                raise LockHeld(host)

    def _read(self) -> tuple[bytes, int]:
        """Return the claim and its modification time; a network file system refreshes both when a file is opened."""
        with self.path.open("rb") as file:
            return file.read(1000), os.fstat(file.fileno()).st_mtime_ns

    def _write_claim(self, needed: bool) -> None:
        """Write the claim in place; closing the file makes other hosts see it. On a full disk `flock` has to suffice.

        Raises:
            OSError: the claim cannot be written, and is `needed`, for there is no `flock`.
        """
        claim = f"{os.getpid()}\n{socket.gethostname()}\n{_boot_id()}\n{uuid.uuid4().hex}\n".encode()
        try:
            with self.path.open("r+b") as file:
                file.write(claim)
                file.truncate()
            self.claim = claim
        except OSError:
            if needed:
                raise

    def _settle(self) -> None:
        time.sleep(SETTLE_TIME)
        if not self.is_owned():
            raise LockHeld(_host_of(self._read()[0]))

    def _beat(self) -> None:
        interval = min(SETTLE_TIME, HEARTBEAT_INTERVAL)  # of simultaneous claims, the earlier ones are void: stop soon
        while not self.over.wait(interval):
            if not self.is_owned():
                if self.on_loss:
                    self.on_loss()
                return
            with suppress(OSError):
                os.utime(self.path)
            interval = HEARTBEAT_INTERVAL


@contextmanager
def exclusive(lock_file: Path, product: Path | None = None) -> Iterator[None]:
    """Hold `lock_file`, whose folder is created if needed; the lock is released when the block or the process ends.

    Args:
        lock_file: the file that is locked.
        product: what is made under the lock. If given, a message says that another process is making it.

    Raises:
        OSError: the lock file cannot be created.
    """
    lock_file.parent.mkdir(parents=True, exist_ok=True)
    told = False
    while True:
        lock = HeartbeatLock(lock_file)
        try:
            lock.acquire()
            break
        except LockHeld:
            if product and not told:
                log.info(f"another process makes {product}; waiting for it")
            told = True
            time.sleep(0.05)
    try:
        yield
    finally:
        lock.release()


def is_held(path: Path) -> bool:
    """Return, without waiting, whether a process seems to hold the lock `path`.

    Where `flock` does not tell, a recent heartbeat counts. Clocks may differ, so this is for display and for waiting;
    `HeartbeatLock.acquire` alone decides.
    """
    try:
        with path.open("rb") as file:
            supported = _flock(file.fileno(), fcntl.LOCK_SH)
            claim, modified = file.read(1000), os.fstat(file.fileno()).st_mtime
    except LockHeld:
        return True
    except OSError:  # the lock is missing, or belongs to another user
        return False
    if not claim or (supported and _is_of_this_machine(claim)):
        return False
    return abs(time.time() - modified) < RECENT


def _flock_with_retries(descriptor: int) -> bool:
    for _ in range(CONTENTION_RETRIES):
        with suppress(LockHeld):
            return _flock(descriptor, fcntl.LOCK_EX)
        time.sleep(0.03)
    return _flock(descriptor, fcntl.LOCK_EX)


def _flock(descriptor: int, kind: int) -> bool:
    """Return True if `flock` was granted, and False if the file system has none.

    Raises:
        LockHeld: another process has it.
        OSError: the file cannot be locked for another reason.
    """
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in HELD_ERRORS:
            raise LockHeld from None
        if error.errno in UNSUPPORTED_ERRORS:
            return False
        raise
    return True


def _is_of_this_machine(claim: bytes) -> bool:
    lines = claim.decode(errors="replace").split("\n")
    if len(lines) > 4 and lines[2] and _boot_id():  # containers on several machines may have one host name
        return lines[2] == _boot_id()
    return _host_of(claim) == socket.gethostname()


def _host_of(claim: bytes) -> str | None:
    """Return the host in a claim, also in one that `filelock` has written."""
    lines = claim.decode(errors="replace").split("\n")
    return lines[1] if len(lines) > 1 else None


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("utf-8").strip()
    except OSError:
        return ""
