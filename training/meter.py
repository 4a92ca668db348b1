"""What a run tells while it trains: metrics fetched one call late, logged, watched for divergence, timed."""

import math
import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from training.record import RunDirectory, finite, read_metrics

Observer = Callable[[int, dict[str, Any]], None]
Fetch = Callable[[], dict[str, np.ndarray]]


class Diverged(RuntimeError):
    """A loss that is not finite; `step` is the last good one."""

    def __init__(self, step: int):
        super().__init__(f"loss not finite after step {step}")
        self.step = step


class Meter:
    """The metrics and the clock of one run.

    Args:
      directory: where lines go.
      start: the step that this attempt begins at; earlier attempts' seconds up to it are counted in.
      total: the horizon.
      every: log each so many steps, the first and the last too.
      learning_rates: float32 [total].
      tokens: tokens a step.
      observers: called with (step, metrics) at every logged step.
    Attributes:
      last_good: the last step whose loss was finite, with its metrics, whether it was logged or not; after a resume at a
        step that was not logged, the step alone; None before any step.
    """

    def __init__(
        self,
        directory: RunDirectory,
        start: int,
        total: int,
        every: int,
        learning_rates: np.ndarray,
        tokens: int,
        observers: Iterable[Observer] = (),
    ):
        self._directory, self._total, self._every = directory, total, max(every, 1)
        self._rates, self._tokens, self._observers = learning_rates, tokens, tuple(observers)
        earlier = [line for line in read_metrics(directory.path) if line["step"] <= start and "seconds" in line]
        self.earlier = earlier[-1]["seconds"] if earlier else 0.0  # seconds of earlier attempts
        self.last_good = next((line for line in earlier if line["step"] == start), {"step": start}) if start else None
        self._began = time.perf_counter() - self.earlier
        self._pending: tuple[int, Fetch] | None = None

    def seconds(self) -> float:
        """Seconds spent training, over all attempts."""
        return time.perf_counter() - self._began

    def uncounted(self, seconds: float) -> None:
        """Leave out seconds spent on something else, such as an evaluation."""
        self._began += seconds

    def recent_loss(self) -> float | None:
        """The mean training loss over the last tenth of the logged steps."""
        losses = [line["loss"] for line in read_metrics(self._directory.path) if line.get("loss") is not None]
        tail = losses[-max(1, len(losses) // 10) :]
        return sum(tail) / len(tail) if tail else None

    def put(self, step: int, fetch: Fetch) -> None:
        """Take what fetches the metrics [n] of the call that began at `step`, and settle those of the call before.

        Raises:
          Diverged: a loss of the call before was not finite.
        """
        previous, self._pending = self._pending, (step, fetch)
        self._settle(previous)

    def flush(self) -> None:
        """Settle what is left."""
        previous, self._pending = self._pending, None
        self._settle(previous)

    def _settle(self, pending: tuple[int, Fetch] | None) -> None:
        if pending is None:
            return
        begin, metrics = pending[0], pending[1]()
        for i, loss in enumerate(metrics["loss"]):
            step = begin + i + 1
            if not math.isfinite(loss):
                raise Diverged(step - 1)
            line = {name: float(values[i]) for name, values in metrics.items()}
            line |= {"learning_rate": float(self._rates[step - 1]), "tokens": step * self._tokens}
            line["seconds"] = self.seconds()
            self.last_good = {"step": step} | {name: finite(value) for name, value in line.items()}
            if step % self._every == 0 or step in (1, self._total):
                self._directory.log(step, **line)
                for observe in self._observers:
                    observe(step, line)
