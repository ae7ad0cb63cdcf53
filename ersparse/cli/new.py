"""The command `ersparse new <folder>`: a small project of one's own, ready to run. Imports no torch."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from ersparse.cli.arguments import CommandParser
from ersparse.errors import UserError

TEMPLATE = Path(__file__).parent / "project"
NEXT = """\
{folder}: a density, a network, a data set, a preset and their tests
  cd {folder}
  ersparse run --config-dir conf experiment=first
  pytest"""


def main(arguments: Sequence[str]) -> int:
    """Write the project, print what to do next, and return the exit status.

    Raises:
        UserError: the folder is a file, is not empty, or cannot be written.
    """
    parser = CommandParser("ersparse new", description="Write a small project of your own.")
    parser.add_argument("folder", type=Path, help="a folder that does not exist yet, or is empty")
    folder: Path = parser.parse_args(arguments).folder
    write_project(folder)
    print(NEXT.format(folder=folder))
    return 0


def write_project(folder: Path) -> None:
    """Copy the template into a folder, which is made if it does not exist.

    Raises:
        UserError: as `main`.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise UserError(f"{folder}: exists and is not empty; must be a new or an empty folder")
        shutil.copytree(TEMPLATE, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
        (folder / "gitignore").rename(folder / ".gitignore")  # package data leaves out names that begin with a dot
    except FileExistsError:
        raise UserError(f"{folder}: is a file; must be a new or an empty folder") from None
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({os.strerror(error.errno or 0).lower()})") from None
