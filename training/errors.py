"""The one way in which the engine, the families and the sweeps refuse bad input."""

import difflib
from collections.abc import Iterable


class BadInput(ValueError):
    """Something the user gave is wrong; the message is one line that names the file, key or column at fault."""

    exit_code = 2


class Absent(BadInput):
    """What the user named is not on this machine, and cannot be fetched to it."""


class RunFailed(RuntimeError):
    """A run ended without a usable result; the message is one line that says why."""

    exit_code = 1


def nearest(name: str, candidates: Iterable[str]) -> str:
    """A "did you mean" suffix for a mistyped name; empty when nothing is close."""
    close = difflib.get_close_matches(name, list(candidates), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""
