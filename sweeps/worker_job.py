"""What one worker of a sweep is asked to do: plain values, which a launcher sends as JSON or pickles."""

import dataclasses
import json
from typing import Any

from training import extras


@dataclasses.dataclass(frozen=True)
class WorkerJob:
    """The job of one worker.

    Attributes:
        path: the sweep directory.
        run_ids: the points that may be run.
        session: names this invocation of the sweep; a point that failed in it is not tried again.
        run_batch: how many runs of a shape are trained as one program; None: as many as pay (`sweeps.run_batching`).
        workers: among whom the points of a shape are shared out.
        unbatched: points that are trained alone, since a worker died in a batch with them.
        cores: that the process is pinned to; none: any.
    """

    path: str
    run_ids: tuple[str, ...]
    session: str
    run_batch: int | None = 1
    workers: int = 1
    unbatched: tuple[str, ...] = ()
    cores: tuple[int, ...] = ()

    def to_json(self) -> str:
        """The job as one line of JSON."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "WorkerJob":
        """The job of a line that `to_json` made."""
        values = json.loads(text).items()
        plain: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in values}
        return cls(**plain)


class WorkerStopped(BaseException):
    """A signal between two runs, or before the first step of one; its argument is the number of the signal."""


def describe_error(error: Exception) -> str:
    """An exception as one line: its type and its message."""
    return extras.explained(error) or f"{type(error).__name__}: {' '.join(str(error).split())}"
