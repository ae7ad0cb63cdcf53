"""Standard output and error that survive narrow encodings and closed pipes. Imports no torch."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable


def guarded(command: Callable[[], int]) -> int:
    """Run a command whose characters are replaced where the terminal cannot show them; a closed pipe ends it quietly.

    Returns:
        The command's exit status; 0 if the reader of its output has closed the pipe, as `head` does.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        status = command()
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes once more at exit
        return 0
    return status
