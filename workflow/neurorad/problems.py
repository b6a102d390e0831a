"""The one error that a user can cause: what, where, why, and how to mend it, in one message."""


class InputError(Exception):
    """Input that cannot be used. The CLI prints the message without a traceback and exits with status 2."""
