"""Exceptions of tables and fits, each with the exit code of the command line."""

import difflib
import itertools
from collections.abc import Iterable

MOST_LISTED = 40  # names that a message lists; a table may have thousands of columns
LONGEST_LISTED = 80  # characters of each
MOST_COMPARED = 2000  # names that are searched for the nearest, which takes milliseconds each


class InputError(ValueError):
    """A table, a column, a law or a request that cannot be used; the message names the file, column or constant.

    Args:
        message: one line, in the words of a Python caller: arguments stand as they are called there.
        flag: what settles it on the command line, which shows it behind the message.
        command: the command line that makes what is missing, which is shown there too.

    Example:
        >>> error = InputError("law 'chinchilla' needs a column for n", flag="--n_column=COLUMN")
        >>> str(error), error.flag
        ("law 'chinchilla' needs a column for n", '--n_column=COLUMN')
    """

    exit_code = 2

    def __init__(self, message: str, *, flag: str | None = None, command: str | None = None):
        super().__init__(message)
        self.flag = flag
        self.command = command


class FitFailed(RuntimeError):
    """The optimiser did not reach an optimum, or a law has none where one was asked for."""

    exit_code = 1


class NotPreregistered(RuntimeError):
    """A forecast of something that had been measured before it was made."""

    exit_code = 1


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of a message that names the known name closest to an unknown one; empty where none is close.

    Example:
        >>> nearest("chinchila", ["kaplan", "chinchilla"])
        "; did you mean 'chinchilla'?"
    """
    known = [str(item) for item in itertools.islice(known, MOST_COMPARED)]
    known = [item for item in known if len(item) <= LONGEST_LISTED]
    close = difflib.get_close_matches(name.lower(), [item.lower() for item in known], n=1, cutoff=0.55)
    match = next((item for item in known if close and item.lower() == close[0]), None)
    match = match or next(
        (item for item in known if item.lower() in name.lower() or name.lower() in item.lower()), None
    )
    return f"; did you mean '{match}'?" if match else ""


def listed(names: Iterable[str]) -> str:
    """Names in a row, the first ``MOST_LISTED`` of many, and long ones cut.

    Example:
        >>> listed(["n", "d"])
        'n, d'
    """
    names = [str(name) for name in names]
    shown = [
        name if len(name) <= LONGEST_LISTED else f"{name[: LONGEST_LISTED - 3]}..." for name in names[:MOST_LISTED]
    ]
    return ", ".join(shown) + (f" and {len(names) - MOST_LISTED} more" if len(names) > MOST_LISTED else "")
