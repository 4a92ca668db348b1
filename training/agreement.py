"""What the processes of one run agree on, in memory: none reads a file that another wrote.

Every function here is called by all processes of the run, in the same order; in a run of one process it does nothing.
"""

import contextlib
import itertools
import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import jax
import numpy as np

from training.errors import BadInput, RunFailed

T = TypeVar("T")
READY_SECONDS = 3600  # for the slowest to open its data, or to compile
_barriers = itertools.count()  # each has a name of its own


def gathered(value: T) -> list[T]:
    """The values of all processes in their order, in each of them.

    Args:
      value: JSON; infinities and NaN are kept.
    """
    if jax.process_count() == 1:
        return [value]
    text = np.frombuffer(json.dumps(value).encode(), np.uint8)
    lengths = _all(np.array([len(text)], np.int32)).ravel()
    padded = np.zeros(lengths.max(), np.uint8)
    padded[: len(text)] = text
    return [json.loads(row[:length].tobytes()) for row, length in zip(_all(padded), lengths, strict=True)]


def of_first(what: str, read: Callable[[], T]) -> T:
    """What the first process reads, in every process.

    Args:
      what: is read, for the message where that fails.
      read: is called in the first process; its value is JSON.
    """
    with all_succeed(what):
        value = read() if jax.process_index() == 0 else None
    return gathered(value)[0]  # type: ignore[return-value]


def largest(*values: float) -> tuple[float, ...]:
    """The largest of each value over all processes."""
    if jax.process_count() == 1:
        return values
    return tuple(float(value) for value in np.max(_all(np.asarray(values, np.float32)), axis=0))


def check_equal(facts: Mapping[str, Any]) -> None:
    """Raise BadInput, in every process, where one of these facts differs between processes."""
    first, *others = gathered(dict(facts))
    for process, theirs in enumerate(others, 1):
        for name, value in first.items():
            if theirs[name] != value:
                raise BadInput(f"{name}: {value} in process 0 and {theirs[name]} in process {process} of one run")


@contextlib.contextmanager
def all_succeed(what: str, seconds: float = READY_SECONDS) -> Iterator[None]:
    """What is done within succeeds in every process, or fails in every one: none waits for another that has ended.

    Args:
      what: is done, for the message.
      seconds: that the first to be ready waits for the last.
    Raises:
      BadInput, RunFailed: it failed in another process, which is named; or some were not ready in time.
    """
    if jax.process_count() == 1:
        yield
        return
    error = None
    try:
        yield
    except Exception as raised:
        error = raised
    try:
        _wait(what, seconds)
    except RunFailed as late:
        raise error or late from None
    told = gathered(None if error is None else [str(error) or type(error).__name__, getattr(error, "exit_code", 1)])
    if error is not None:
        raise error
    for process, failure in enumerate(told):
        if failure is not None:
            message, code = failure
            raise (BadInput if code == BadInput.exit_code else RunFailed)(
                f"{what}: process {process} of {len(told)} failed: {message}"
            )


def _wait(what: str, seconds: float) -> None:
    """Return once all processes have come here.

    Raises:
      RunFailed: some had not in time; they are named.
    """
    from orbax.checkpoint import multihost  # half a second that a run of one process need not pay

    key = f"isoflop {what} {next(_barriers)}"
    try:
        multihost.get_barrier_sync_fn()(key=key, timeout_ms=round(1000 * seconds))
    except jax.errors.JaxRuntimeError as error:
        found = re.search(r"timed out task names:\s*([\d\s,]*\d)", str(error))
        absent = f"processes {', '.join(found[1].split())}" if found else "some processes"
        raise RunFailed(f"{what}: {absent} of {jax.process_count()} were not ready within {seconds:g} s") from error


def _all(value: np.ndarray) -> np.ndarray:
    """An array of one shape in every process as [processes, ...]."""
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(value)).reshape(jax.process_count(), *value.shape)
