"""What the user can mend. The message is one line; status 2 for bad input, 1 for a run that failed on its way."""


class UserError(ValueError):
    """Bad input, or surroundings that a run cannot work in. The message names the key, the value, what is allowed."""


class RunFailed(RuntimeError):
    """A run that had to stop: a full disk, a rank that died. The message says why, and what to do."""
