"""Exceptions of tables and fits, each with the exit code of the command line."""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """A table, a column, a law or a request that cannot be used; the message names the file, column or constant."""

    exit_code = 2


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
    known = [str(item) for item in known]
    close = difflib.get_close_matches(name.lower(), [item.lower() for item in known], n=1, cutoff=0.55)
    match = next((item for item in known if close and item.lower() == close[0]), None)
    match = match or next(
        (item for item in known if item.lower() in name.lower() or name.lower() in item.lower()), None
    )
    return f"; did you mean '{match}'?" if match else ""
