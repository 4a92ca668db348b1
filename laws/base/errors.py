"""What can go wrong with a table or a fit, each with the exit code of the command line."""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """The table, the columns or a request about them cannot be used; the message names the file and the column."""

    exit_code = 2


class FitFailed(RuntimeError):
    """The optimiser did not reach an optimum, or a law has none where one was asked for."""

    exit_code = 1


class NotPreregistered(RuntimeError):
    """What was to be predicted had already been measured."""

    exit_code = 1


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint ``; did you mean 'x'?`` when some known name is close to ``name``, else nothing."""
    known = [str(item) for item in known]
    close = difflib.get_close_matches(name.lower(), [item.lower() for item in known], n=1, cutoff=0.55)
    match = next((item for item in known if close and item.lower() == close[0]), None)
    match = match or next(
        (item for item in known if item.lower() in name.lower() or name.lower() in item.lower()), None
    )
    return f"; did you mean '{match}'?" if match else ""
