"""The metrics of a run while it trains: fetched one call late, logged, watched for divergence, timed."""

import contextlib
import math
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from training.lines import read_metrics
from training.rollback import Spike
from training.run_directory import RunDirectory, finite

STATISTICS = ("activations/", "attention/", "weights/", "updates/")  # see `training.statistics`
Logger = Callable[[int, dict[str, Any]], None]  # called with (step, metrics) at every logged step
Fetch = Callable[[], dict[str, np.ndarray]]  # waits for the metrics of a call, [steps of the call] each


class Diverged(RuntimeError):
    """A loss that is not finite; `step` is the last good one."""

    def __init__(self, step: int):
        super().__init__(f"loss not finite after step {step}")
        self.step = step


class Stopwatch:
    """Seconds spent on one run, over all attempts at it.

    Args:
      seconds: those of earlier attempts.
    """

    def __init__(self, seconds: float = 0.0):
        self._seconds = seconds
        self._since: float | None = None

    @property
    def seconds(self) -> float:
        """Seconds so far."""
        return self._seconds + (0.0 if self._since is None else time.perf_counter() - self._since)

    def add(self, seconds: float) -> None:
        """Count seconds spent on the run while the stopwatch stood still."""
        self._seconds += seconds

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Count the time within."""
        self._since = time.perf_counter()
        try:
            yield
        finally:
            self._seconds, self._since = self.seconds, None

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leave out the time within, such as that of an evaluation."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self._seconds -= time.perf_counter() - began


class MetricLog:
    """The metrics of one run, and the time spent on it.

    Args:
      directory: of the run; lines are appended to its `metrics.jsonl`.
      start: the step that this attempt begins at; earlier attempts' seconds up to it are counted in.
      total: steps of the whole run.
      every: log each so many steps, the first and the last too.
      lr_schedule: learning rates, float32 [total].
      tokens: tokens a step.
      loggers: called with (step, metrics) at every logged step.
      statistics: log those of layers each so many steps; 0: there are none.
    Attributes:
      goes_back: whether a skipped step raises `Spike`.
      earlier: seconds of earlier attempts.
      clock: seconds spent training.
      last_good: the last step whose loss was finite, with its metrics, whether it was logged or not; after a resume at a
        step that was not logged, the step alone; None before any step.
    """

    def __init__(
        self,
        directory: RunDirectory,
        start: int,
        total: int,
        every: int,
        lr_schedule: np.ndarray,
        tokens: int,
        loggers: Iterable[Logger] = (),
        statistics: int = 0,
    ):
        self._directory, self._total, self._every = directory, total, max(every, 1)
        self._lr_schedule, self._tokens, self._loggers = lr_schedule, tokens, tuple(loggers)
        self._statistics, self.goes_back = statistics, False
        earlier = [line for line in read_metrics(directory.path) if line["step"] <= start and "seconds" in line]
        self.earlier: float = earlier[-1]["seconds"] if earlier else 0.0
        self.clock = Stopwatch(self.earlier)
        self.last_good = next((line for line in earlier if line["step"] == start), {"step": start}) if start else None
        self._pending: tuple[int, Fetch] | None = None

    def recent_loss(self) -> float | None:
        """The mean training loss over the last tenth of the logged steps."""
        losses = [line["loss"] for line in read_metrics(self._directory.path) if line.get("loss") is not None]
        tail = losses[-max(1, len(losses) // 10) :]
        return sum(tail) / len(tail) if tail else None

    def rewind(self, step: int) -> None:
        """Forget what came after a step: the metrics of the last call, and the last good step."""
        self._pending, self.last_good = None, {"step": step} if step else None

    def put(self, step: int, fetch: Fetch) -> None:
        """Log the metrics of the call before, and keep those of the call that began at `step` for the next time.

        So the host waits for a call only once the next one is dispatched.

        Raises:
          Diverged: a loss of the call before was not finite.
          Spike: a step of it was skipped, and the run goes back from it.
        """
        previous, self._pending = self._pending, (step, fetch)
        self._log(previous)

    def flush(self) -> None:
        """Log the metrics of the last call.

        Raises:
          Diverged, Spike: as `put`.
        """
        previous, self._pending = self._pending, None
        self._log(previous)

    def _values(self, metrics: dict[str, np.ndarray], i: int, step: int) -> dict[str, float]:
        """The metrics of step i of a call, those of layers by name, and statistics only where they are taken."""
        line = {}
        for name, values in metrics.items():
            if name.startswith(STATISTICS) and not (self._statistics and step % self._statistics == 0):
                continue
            if values.ndim == 1:
                line[name] = float(values[i])
            else:
                line |= {f"{name}/layer_{layer:02d}": float(value) for layer, value in enumerate(values[i])}
        return line

    def _log(self, call: tuple[int, Fetch] | None) -> None:
        if call is None:
            return
        begin, metrics = call[0], call[1]()
        for i, loss in enumerate(metrics["loss"]):
            step = begin + i + 1
            skipped = "skipped" in metrics and bool(metrics["skipped"][i])  # it moved nothing
            if not (math.isfinite(loss) or skipped):
                raise Diverged(step - 1)
            if skipped and self.goes_back:
                raise Spike(step)
            line = self._values(metrics, i, step)
            line |= {"learning_rate": float(self._lr_schedule[step - 1]), "tokens": step * self._tokens}
            line["seconds"] = self.clock.seconds
            self.last_good = {"step": step} | {name: finite(value) for name, value in line.items()}
            if step % self._every == 0 or step in (1, self._total):
                self._directory.log(step, **line)
                for log in self._loggers:
                    log(step, line)
