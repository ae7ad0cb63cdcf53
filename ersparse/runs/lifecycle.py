"""The life of a run folder: locked, started or resumed, and left in a state that run.json states truly."""

from __future__ import annotations

import errno
import logging
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from ersparse.errors import RunFailed, UserError
from ersparse.runs.console import logging_to
from ersparse.runs.record import RunRecord
from ersparse.storage.run_folder import RunFolder

RESUME_HINT = "the same command resumes after the last finished epoch"
DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO}

log = logging.getLogger("ersparse")
Content = Mapping[str, Any]  # of run.json


def execute(
    folder: RunFolder,
    title: str,
    *,
    fresh: bool,
    is_done: Callable[[Content], bool],
    start: Callable[[Content | None], RunRecord],
    work: Callable[[RunRecord], None],
    resume_hint: str = RESUME_HINT,
) -> None:
    """Do the work of a run under the lock of its folder, and record its state whatever happens.

    Args:
        folder: the folder of the run.
        title: the first line of its log.
        fresh: whether the folder is cleared first.
        is_done: tells from run.json whether nothing is left to do, because another process did it meanwhile.
        start: returns the record to begin with, given the content of run.json that an earlier attempt left.
        work: does the work, and saves the record with state "done".
        resume_hint: what an interrupted run's log says about resuming.

    Raises:
        UserError: the folder is in use or cannot be written.
        RunFailed: a disk is full or read-only.
        KeyboardInterrupt: the run was interrupted, and is recorded as preempted.
    """
    with folder.acquire():
        if fresh:
            folder.clear()
        before = folder.read()
        if before and is_done(before):
            return
        with logging_to(folder.log, None):
            log.info(title)
            if before is None and (folder.path / "run.json").exists():
                log.warning("run.json is damaged; it is written anew")
            record = start(before)
            with _recorded_state(record, resume_hint):
                folder.write_config(record.content["config"])
                record.save()
                work(record)


@contextmanager
def disk_errors(folder: RunFolder) -> Iterator[None]:
    """Turn an `OSError` about a full or read-only disk, or a dead rank, into a `RunFailed` of one line."""
    try:
        yield
    except OSError as error:
        if is_expected(error):
            raise RunFailed(f"{folder.path}: {error}; {RESUME_HINT}") from None
        raise


def is_expected(error: BaseException) -> bool:
    """Return whether an error needs no traceback: a full or read-only disk, a dead rank, layer collapse."""
    return isinstance(error, ChildProcessError | RunFailed) or getattr(error, "errno", None) in DISK_ERRORS


def is_recorded_as_done(record: RunRecord) -> bool:
    """Return whether run.json says "done"; the record in memory may say so although it could not be written."""
    return (record.folder.read() or {}).get("state") == "done"


@contextmanager
def _recorded_state(record: RunRecord, resume_hint: str) -> Iterator[None]:
    """Record state "preempted" or "failed" if the block ends with an exception, unless the run is already done.

    A logger may still upload when the run is done, and be interrupted or fail then.
    """
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        if is_recorded_as_done(record):
            log.warning("interrupted after the run was done")
        else:
            record.save(state="preempted")
            log.warning(f"interrupted; {resume_hint}")
        raise KeyboardInterrupt from None
    except Exception as error:
        log.debug(traceback.format_exc())
        is_refusal = isinstance(error, UserError)
        reason = str(error) if is_expected(error) or is_refusal else f"{type(error).__name__}: {error}"
        if not is_recorded_as_done(record):
            with suppress(OSError):  # on a full disk
                record.save(state="failed", error=reason)
        if is_refusal:  # too late for status 2, with which nothing is created
            raise RunFailed(reason) from error
        raise
