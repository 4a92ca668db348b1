"""Stopping politely: the first signal asks the loop to save and leave, the same one once more leaves at once.

They are those of a person (SIGINT), of a machine that is taken away (SIGTERM), and of a cluster whose time is nearly up
(SIGUSR1 or SIGUSR2, as it is asked).
"""

import atexit
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import NoReturn

_late: list[int] = []  # what `late` says

CAUGHT = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


class Interrupted(RuntimeError):
    """A run stopped by a signal after it saved a checkpoint; the same command continues it."""

    def __init__(self, number: int, step: int):
        super().__init__(f"stopped by {signal.Signals(number).name} at step {step}; the same command continues it")
        self.number, self.exit_code = number, 128 + number


@contextlib.contextmanager
def stoppable() -> Iterator[list[int]]:
    """A list that is empty until a signal comes, whose number it then holds; the same signal once more ends the process."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    previous = {number: signal.getsignal(number) for number in CAUGHT}

    def note(number: int, frame: object) -> None:
        del frame
        if number in received:  # not by an exception: what it would unwind waits for the save under way
            os._exit(128 + number)
        # Another kind may follow, as a cluster's warning follows its preemption: that is no second request.
        received.append(number)

    for number in CAUGHT:
        signal.signal(number, note)
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        _late[:] = received[:1] or _late


def late() -> int | None:
    """The last signal that runs of this process heard, once: where it came too late to stop its run, whoever would begin
    another must heed it."""
    return _late.pop() if _late else None


def leave(code: int) -> NoReturn:
    """End this process now, with what is to be done at its end, but without waiting for its threads: those of a save that
    failed wait for each other, for minutes."""
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # nobody listens any more
            stream.flush()
    os._exit(code)
