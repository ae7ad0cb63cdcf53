"""Standard output and error that survive narrow encodings, closed pipes and full disks. Imports no torch."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Callable

LOST_OUTPUT = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EBADF}


def guarded(command: Callable[[], int]) -> int:
    """Run a command whose characters are replaced where the terminal cannot show them; a closed pipe ends it quietly.

    Returns:
        The command's exit status; 0 if the reader of its output has closed the pipe, as `head` does; 1 if its output
        cannot be written; 2 if the current folder has been removed.
    """
    _open_streams()
    try:
        os.getcwd()
    except FileNotFoundError:
        print("the current folder does not exist any more; change to another one", file=sys.stderr)
        return 2
    try:
        status = command()
        sys.stdout.flush()
    except BrokenPipeError:
        _discard_output()
        return 0
    except OSError as error:
        if error.filename is not None or error.errno not in LOST_OUTPUT:
            raise
        _discard_output()
        print(f"standard output: cannot be written ({error.strerror})", file=sys.stderr)
        return 1
    return status


def _open_streams() -> None:
    """Replace closed streams by the null device, and have the others replace characters that they cannot show."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w", encoding="utf-8"))
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _discard_output() -> None:
    """Let the interpreter, which flushes once more at exit, write to the null device."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
