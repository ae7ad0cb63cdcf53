"""Errors that a user can correct. The message is one line; the exit status is 2 for bad input, 1 for a failed run."""


class UserError(ValueError):
    """Bad input, or an environment in which a run cannot work; the message names key, value and what is allowed."""


class RunFailed(RuntimeError):
    """A run that had to stop, for example on a full disk or a dead rank; the message says why, and what to do."""
