"""Argument parsing shared by the commands: argparse with one-line errors, and `out=FILE` as in Hydra overrides."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from ersparse.errors import UserError


class CommandParser(argparse.ArgumentParser):
    """Argument parser that raises `UserError` with one line, in place of printing its usage and exiting."""

    def error(self, message: str) -> NoReturn:
        """Raise a `UserError` that names the argument, or else the command, and ends with the usage."""
        line = message.removeprefix("argument ")
        named = line if line != message else f"{self.prog}: {message}"
        raise UserError(f"{named}; {' '.join(self.format_usage().split())}")


def out_as_option(words: Sequence[str]) -> list[str]:
    """Return the words of a command line with `out=FILE` written as `--out=FILE`."""
    return [f"--{word}" if word.startswith("out=") else word for word in words]


def positive(text: str) -> int:
    """Return the whole number above 0 that an argument spells.

    Raises:
        ArgumentTypeError: it spells none.
    """
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: must be a whole number above 0")
    return int(text)


def check_folder(folder: Path) -> None:
    """Check that an argument names a folder that can be read.

    Raises:
        UserError: it does not.
    """
    if not os.path.isdir(folder):  # unlike Path.is_dir, False for a name that is too long
        raise UserError(f"{folder}: no such folder")
    if not os.access(folder, os.R_OK | os.X_OK):
        raise UserError(f"{folder}: cannot be read (permission denied)")
