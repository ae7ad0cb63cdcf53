"""The command line: one file for each command."""

from ersparse.cli.commands import main
from ersparse.cli.run import launch

__all__ = ["launch", "main"]
