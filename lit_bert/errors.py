"""The one exception that means "you can fix this"."""


class UserError(ValueError):
    """A mistake its reader can correct: the message gives the bad value, where it stands, and the fix.

    The command line prints it without a traceback and exits with status 2.
    """
