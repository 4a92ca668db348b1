"""A run beside its steps: what is restored, evaluated, saved and measured of it before, between and after them."""

import time
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from training import (
    checkpoint,
    evaluation,
    hosts,
    record,
    restored,
    state as states,
    step as steps,
    stopping,
    transfer,
    transforms,
)
from training.meter import Meter, Observer
from training.pack import Ready, Seat
from training.signals import Interrupted
from training.state import State


class Course:
    """The course of one run, from its last checkpoint on, or from its beginning.

    Args:
      ready: what the run said of itself.
      seat: what it was given, and where its state will be.
      directory: of the run.
      saved: its checkpoints.
      observers: called with (step, metrics) at every logged step.
    Attributes:
      env: the environment, for the record.
      start: the step that this attempt begins at.
      meter: metrics and clock.
    """

    def __init__(
        self,
        ready: Ready,
        seat: Seat,
        directory: record.RunDirectory,
        saved: checkpoint.Checkpoints,
        observers: Iterable[Observer],
    ):
        config, program = ready.config, seat.program
        self._ready, self._seat, self._directory, self._saved = ready, seat, directory, saved
        self._axes, self._total = states.axes(program.variables), config.derived.steps
        self.env = record.environment(config, seat.mesh, **ready.task.facts())
        self.start, state = saved.newest(program.abstract, program.shardings)
        if state is None:
            state = program.init(np.int32(config.seed), ready.hyper)
            state = transfer.begin(state, config.start, program.shardings, seat.mesh)
            state = steps.begun(ready.recipe, program, state, ready.hyper)
        seat.state = restored.taught(state, config, program.variables, program.shardings, seat.mesh)
        directory.start(config, self.env, ready.task.keep)
        tokens = config.derived.tokens // self._total
        self.meter = seat.meter = Meter(
            directory, self.start, self._total, config.log.every, ready.rates, tokens, observers
        )
        self._best, self._saved_at = self._judged(self.start), time.perf_counter()

    @property
    def over(self) -> bool:
        """Whether the run's patience has run out."""
        return self._best is not None and self._best.exhausted

    def between(self, step: int, n: int) -> None:
        """Evaluate and save after a call of n steps, the last of which was `step`, where either is due.

        Raises:
          Interrupted: by a signal, after saving.
        """
        config, patience = self._ready.config, self._ready.config.stopping.patience
        if step == self._total and not patience:
            return  # `end` evaluates and saves
        (minutes, asked), score = self._agreed(step, n), None
        due = _crossed(step, n, config.checkpoint.every_steps) or 0 < config.checkpoint.every_minutes <= minutes
        evaluates = step == self._total or _crossed(step, n, config.log.evaluate_every)
        if evaluates or (due and config.checkpoint.keep_best):
            self.meter.flush()
            interim = self._evaluate(self._seat.state, final=False)
            score = stopping.score(interim, config.stopping.metric)
            self._directory.log(step, **{f"eval_{name}": value for name, value in interim.items()})
            hosts.agreed(0.0)  # the line is there for all hosts to judge by
            self._best = self._judged(step)
            if self._best and (self._best.exhausted or step == self._total):
                return  # `end` saves the best of all steps in the place of this one
            due = due or (self._best is not None and self._best.step == step)
        if due or asked:
            self.meter.flush()
            self._saved.save(step, self._seat.state, score)
            self._saved_at = time.perf_counter()
        if asked:
            self._saved.wait()
            raise Interrupted(asked[0], step)

    def end(self, step: int, status: str, began: float) -> dict[str, Any]:
        """What was measured of the run, which has made its last step, and is evaluated and saved.

        Args:
          step: the last.
          status: "completed" or "diverged".
          began: when this attempt did, on the clock `time.perf_counter`.
        Raises:
          Interrupted: by a signal, in a state that leads here again.
        """
        config, seat, meter = self._ready.config, self._seat, self.meter
        seconds, state, scores = meter.seconds(), seat.state, {"loss": None, "loss_sem": None}
        if status == "completed":
            state, scores = self._concluded(step)
        return {
            "status": status,
            **scores,
            "train_loss": meter.recent_loss(),
            "best_step": self._best.step if self._best else None,
            "params_trained": transfer.trained(state.params, self._ready.recipe.lr_factors),
            **transforms.facts(config, state.params, self._axes, state.masks),
            "last_good": meter.last_good if status == "diverged" else None,
            "wall_seconds": meter.earlier + time.perf_counter() - began,
            "train_seconds": seconds,
            "compile_seconds": seat.compile_seconds,
            "compiles": seat.compiles,
            "pack": seat.runs,
            "continued_from": self.start or None,
            "damaged_checkpoints": checkpoint.damaged_steps(self._directory.path),
        }

    def _concluded(self, step: int) -> tuple[State, dict[str, Any]]:
        """The last state, or the best where the run chooses by patience, its checkpoint kept, and its scores."""
        config, seat, saved, best = self._ready.config, self._seat, self._saved, self._best
        state, chosen = seat.state, best.step if best is not None and best.step != step else None
        if chosen is not None:
            saved.wait()
            state = saved.restore(chosen, seat.program.abstract, seat.program.shardings)
        try:
            scores = self._evaluate(state, final=True)
        except evaluation.Stopped:
            if chosen is None:  # else the checkpoints hold what leads here again
                saved.save(step, state)
                saved.wait()
            raise Interrupted(seat.stop[0], step) from None
        if config.checkpoint.final:
            saved.save(step, state)
        if config.quantize.post:
            scores["post"] = evaluation.after_training(self._ready.task, config, self._axes, state, seat.mesh)
        return state, scores

    def _evaluate(self, state: State, final: bool) -> dict[str, Any]:
        ready, seat = self._ready, self._seat
        params = steps.read(ready.recipe.transforms, self._axes, state, ready.hyper)
        paused = time.perf_counter()
        # An interim one is soon over, and one host of many may not leave the others.
        heard = seat.stop if final and self.env["num_processes"] == 1 else ()
        matmul = ready.config.precision.matmul
        scores = evaluation.evaluate(ready.task, params, state.stats, seat.mesh, matmul, final, heard)
        self.meter.uncounted(time.perf_counter() - paused)
        return scores

    def _judged(self, step: int) -> stopping.Verdict | None:
        found = self._ready.config.stopping
        return stopping.judge(self._directory.path, step, found.metric, found.patience) if found.patience else None

    def _agreed(self, step: int, n: int) -> tuple[float, Sequence[int]]:
        """Minutes since the last save, and the number of the signal that came, if any; hosts do at a step what any of them
        was asked for, or none of them."""
        minutes, stop = (time.perf_counter() - self._saved_at) / 60, self._seat.stop
        if self.env["num_processes"] == 1:
            return minutes, stop  # as it is now: a signal may come while the run is evaluated
        if not _crossed(step, n, self._ready.config.log.every):
            return 0.0, ()
        minutes, number = hosts.agreed(minutes, stop[0] if stop else 0)
        return minutes, [int(number)] if number else ()


def _crossed(step: int, n: int, every: int) -> bool:
    return bool(every) and step // every > (step - n) // every
