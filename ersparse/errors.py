"""The one exception that means: the user can mend this. Its message is one line; it ends a run with status 2."""


class UserError(ValueError):
    """Bad input, or surroundings that a run cannot work in. The message names the key, the value, what is allowed."""
