"""The command line: one file for each command."""

from ersparse.cli.main import launch, main

__all__ = ["launch", "main"]
