"""The one exception that means "you can fix this"."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


class UserError(ValueError):
    """A mistake its reader can correct: the message gives the bad value, where it stands, and the fix.

    The command line prints it without a traceback and exits with status 2.
    """


@contextmanager
def explained() -> Iterator[None]:
    """Print a `UserError` on standard error, and exit with status 2."""
    try:
        yield
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        raise SystemExit(2) from error
