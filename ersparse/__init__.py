"""Sparse networks that start as Erdős–Rényi random graphs, and what becomes of them."""

from typing import Any

__all__ = ["UserError", "run"]


def __getattr__(name: str) -> Any:
    """Imports on first use, so that `import ersparse` does not pay for PyTorch."""
    if name == "run":
        from ersparse.runs.run import run

        return run
    if name == "UserError":
        from ersparse.errors import UserError

        return UserError
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
