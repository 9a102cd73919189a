"""The one error of bad input, which the command line turns into a single line and exit code 2."""


class InputError(ValueError):
    """What a user gave cannot be used. The message is one line: what is wrong, where, and what to do."""
