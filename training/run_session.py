"""One run beside its steps: what it opens and restores, and how it logs, evaluates, saves and stops between calls."""

import contextlib
import dataclasses
import functools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
from ml_collections import ConfigDict

from training import (
    agreement,
    checkpoint,
    curve_flags,
    early_stopping,
    environment as environments,
    evaluation,
    fork,
    gradient_noise,
    load,
    record,
    rollback,
    run_directory,
    state as states,
    step as steps,
    transfer,
    transforms,
)
from training.config import resolve
from training.files import read_object
from training.lines import read_metrics
from training.metrics import Diverged, Fetch, Logger, MetricLog
from training.run_batch import RunBatch, StepInputs, step_inputs
from training.signals import Interrupted
from training.state import State
from training.task import resolve as family_of
from training.types import Record


@dataclasses.dataclass(frozen=True)
class RunSpec:
    """A run to be trained.

    Attributes:
      config: complete; resolved when the run is opened.
      workdir: the run directory.
      loggers: called with (step, metrics) at every logged step, e.g. a progress bar.
      allow_change: semantic keys that may differ from the config that began the run.
      extra: entries for the record, e.g. the sweep and its design columns.
      check: called before the record is written; what it raises is raised.
    """

    config: ConfigDict
    workdir: Path
    loggers: Sequence[Logger] = ()
    allow_change: tuple[str, ...] = ()
    extra: dict[str, Any] = dataclasses.field(default_factory=dict)
    check: Callable[[], None] = lambda: None


class RunSession:
    """The life of one run in this process: `open`, `begin`, then `after_steps` until it has an outcome.

    As a context manager it releases what it holds, and leaves nothing of a run that never began.

    Attributes:
      spec: what is trained.
      inputs: of its steps; from `open` on.
      step: optimizer steps done.
      rollbacks: how often it has gone back from a spike.
      outcome: its result, or the error that ended it; None: it has not ended.
    """

    inputs: StepInputs

    def __init__(self, spec: RunSpec):
        self.spec, self.step = spec, 0
        self.rollbacks: list[rollback.Rollback] = []
        self.outcome: dict[str, Any] | Exception | None = None
        self._resources = contextlib.ExitStack()

    def __enter__(self) -> "RunSession":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._resources.__exit__(kind, error, traceback)

    @property
    def running(self) -> bool:
        """Whether the run has not ended."""
        return self.outcome is None

    @contextlib.contextmanager
    def isolated(self) -> Iterator[None]:
        """Let an error within end this run, and nothing else."""
        try:
            yield
        except Exception as error:
            self.fail(error)

    def fail(self, error: Exception) -> None:
        """End the run with an error, where it has not ended; what goes wrong while it is closed takes the error's place."""
        if not self.running:
            return
        try:
            with self._resources:
                raise error
        except Exception as outcome:
            self.outcome = outcome

    def open(self) -> None:
        """Resolve the config, hold the directory, open data and checkpoints; a run that has ended has its result by that.

        Raises:
          BadInput: config, directory, data or the runs that the config names do not fit.
        """
        with agreement.all_succeed(f"workdir {self.spec.workdir}"):
            config = resolve(self.spec.config)
            self._directory = self._resources.enter_context(
                run_directory.open_run(self.spec.workdir, config, self.spec.allow_change)
            )
        if (result := agreement.of_first("result.json", self._directory.result)) is not None:
            self._close(result)
            return
        self._family = family_of(config.task)
        with agreement.all_succeed("data"):
            task = self._family.build(config)
            facts = task.facts()
            transfer.check_shared(config, {name: facts[name] for name in self._family.INHERITED})
            self._fork(config, facts)
            self._directory.check_data(facts)
        hashes = {name: facts.get(name) for name in ("data_hash", "tokenizer_hash")}
        agreement.check_equal({"the config's run_id": config.derived.run_id, **hashes})
        keep = config.checkpoint
        best = max(keep.keep_best, 1) if config.early_stopping.patience else keep.keep_best
        self._checkpoints = checkpoint.Checkpoints(self._directory.path, keep.keep_last, best, keep.keep_every)
        self._saving = self._resources.enter_context(contextlib.ExitStack())
        self._saving.callback(self._checkpoints.close)
        self._opened = time.perf_counter()
        self.inputs = step_inputs(config, task)

    def begin(self, batch: RunBatch, index: int, stop: Sequence[int]) -> None:
        """Put the state of the newest checkpoint, or the initial one, into the batch, and start an attempt.

        Args:
          batch: of the runs that are stepped together.
          index: of this run among them.
          stop: is empty until a signal comes, whose number it then holds.
        """
        config, programs = self.inputs.config, batch.programs
        rollback.check_alone(config, batch.size)
        self._batch, self._index, self._stop = batch, index, stop
        with jax.set_mesh(batch.mesh):  # what is chosen by the mesh is told as it was chosen
            self._environment = environments.of(config, batch.mesh, **self.inputs.task.facts())
        self._axes, self._total = states.axes(programs.variables), config.derived.steps
        self.step, state = self._checkpoints.newest(programs.abstract, programs.shardings)
        self._continued_from = self.step or None
        if state is None and (forked := config.derived.get("fork_step")):
            self.step, state = forked, fork.restored(config.fork_from, programs.abstract, programs.shardings)
        self._put(state)
        done = agreement.of_first(rollback.FILE, functools.partial(rollback.read, self._directory.path))
        self.rollbacks = [rollback.Rollback(*one) for one in done]
        self._directory.start(config, self._environment, self.inputs.task.keep)
        self._metrics = MetricLog(
            self._directory,
            self.step,
            self._total,
            config.log.every,
            self.inputs.lr_schedule,
            config.derived.tokens // self._total,
            self.spec.loggers,
            config.log.statistics,
        )
        self._metrics.goes_back = self._may_go_back
        self._best, self._saved_at = self._judge(), time.perf_counter()
        if self._over:
            self._finish("completed")

    def _put(self, state: State | None) -> None:
        """Put a state, or the initial one, into the batch."""
        config, batch, programs = self.inputs.config, self._batch, self._batch.programs
        if state is None:
            state = transfer.initialise(batch.init(self._index), config.init_from, programs.shardings, batch.mesh)
            state = steps.first_masks(self.inputs.step_spec, programs, state, self.inputs.hyper)
        batch.put(self._index, load.teacher(state, config, programs.variables, programs.shardings, batch.mesh))

    @property
    def _may_go_back(self) -> bool:
        guard = self.inputs.config.spike_guard
        return bool(guard.rollback) and len(self.rollbacks) < guard.max_rollbacks

    def _go_back(self, spike: int) -> None:
        """Continue from the last checkpoint before a spike, on other batches."""
        config, programs = self.inputs.config, self._batch.programs
        # Checkpoints first: stopped before it is noted, the run comes to the same spike again.
        self._checkpoints.drop_after(rollback.target(config, spike))
        self.step, state = self._checkpoints.newest(programs.abstract, programs.shardings)
        back = rollback.of(config, spike, self.step)
        self.rollbacks.append(back)
        rollback.write(self._directory.path, self.rollbacks)
        self._put(state)
        self._directory.attempt += 1  # whose lines take the place of those after the checkpoint
        self._directory.log(self.step + 1, rollback=len(self.rollbacks), spike=spike, batches_left_out=back.batches)
        self._metrics.rewind(self.step)
        self._metrics.goes_back, self._best = self._may_go_back, self._judge()

    @property
    def batch_number(self) -> int:
        """The number of the batch of the next step, which follows from the steps done and the rollbacks."""
        return rollback.batch_of(self.rollbacks, self.step)

    def _fork(self, config: ConfigDict, facts: Record) -> None:
        """Note in `derived` which run and step this one is forked from; one that goes on keeps what it noted first.

        Raises:
          BadInput: the section `fork_from` names no such run, or one that would have made other steps.
        """
        notes: dict[str, Any] = {}
        if checkpoint.saved_steps(self._directory.path):
            before = read_object(self._directory.path / "config.json", "derived")["derived"]
            notes = {name: before[name] for name in ("trunk", "fork_step") if name in before}
        elif (trunk := fork.trunk(config.fork_from)) is not None:
            fork.check(config, trunk, config.fork_from.step)
            fork.check_data(Path(config.fork_from.run), facts)
            notes = {"trunk": trunk.derived.run_id, "fork_step": config.fork_from.step}
        with config.unlocked():
            config.derived.update(notes)

    @property
    def steps_per_call(self) -> int:
        """How many steps the next call may take at most."""
        wanted = self.inputs.config.steps_per_call
        return wanted if self.step + wanted <= self._total else 1

    def after_steps(self, n: int, metrics: Fetch, seconds: float) -> None:
        """See to the run after a call: log, evaluate, save; at its end, finish it.

        Args:
          n: steps of the call.
          metrics: fetches those of the call, [n] each.
          seconds: this run's share of the time that the call took.
        Raises:
          Interrupted: by a signal, after saving.
        """
        status, clock = "completed", self._metrics.clock
        clock.add(seconds)
        try:
            with clock.running():
                self._metrics.put(self.step, metrics)
                self.step += n
                self._evaluate_and_save(n)
                if not self._over:
                    return
                self._metrics.flush()
                self._check_finite()
        except Diverged as error:
            status, self.step = "diverged", error.step
        except rollback.Spike as spike:
            self._go_back(spike.step)
            return
        self._finish(status)

    @property
    def _over(self) -> bool:
        return self.step >= self._total or (self._best is not None and self._best.exhausted)

    @property
    def _state(self) -> State:
        return self._batch.state(self._index)

    def _evaluate_and_save(self, n: int) -> None:
        """Evaluate and save after a call of n steps, where either is due.

        Raises:
          Interrupted: by a signal, after saving.
        """
        config, step = self.inputs.config, self.step
        if step == self._total and not config.early_stopping.patience:
            return  # `_finish` evaluates and saves
        (minutes, signals), score = self._agree(n), None
        marked = any(step - n < at <= step for at in config.checkpoint.at_steps)
        due = self._crossed(n, config.checkpoint.every_steps) or 0 < config.checkpoint.every_minutes <= minutes
        due = due or marked
        evaluates = step == self._total or self._crossed(n, config.log.evaluate_every)
        if evaluates or (due and config.checkpoint.keep_best):
            self._metrics.flush()
            self._check_finite()
            scores = self._evaluate(self._state, final=False)
            score = early_stopping.score(scores, config.early_stopping.metric)
            self._directory.log(step, **{f"eval/{name.removeprefix('eval_')}": value for name, value in scores.items()})
            self._best = self._judge()
            if self._best and (self._best.exhausted or step == self._total):
                return  # `_finish` saves the best of all steps in the place of this one
            due = due or (self._best is not None and self._best.step == step)
        if due or signals:
            self._metrics.flush()
            self._check_finite()
            self._checkpoints.save(step, self._state, score, marked)
            self._saved_at = time.perf_counter()
        if signals:
            self._checkpoints.wait()
            raise Interrupted(signals[0], step)

    def _check_finite(self) -> None:
        """Raise `Diverged` where the last update left something that is not finite, which no loss has shown yet."""
        state = self._state
        if not states.finite((state.params, state.stats)):
            raise Diverged(self.step)

    def _finish(self, status: str) -> None:
        """Evaluate and save the last state, or the best one, and write the record.

        Args:
          status: "completed" or "diverged".
        Raises:
          Interrupted: by a signal, in a state that leads here again.
        """
        config, seconds, state = self.inputs.config, self._metrics.clock.seconds, self._state
        scores: dict[str, Any] = {"loss": None, "loss_sem": None}
        if status == "completed":
            state, scores = self._evaluate_at_the_end()
        if status == "completed" and not math.isfinite(scores["loss"]):
            status, scores = "diverged", {"loss": None, "loss_sem": None}
        measured = {
            "status": status,
            **scores,
            "train_loss": self._metrics.recent_loss(),
            "curve_flag": curve_flags.flag(read_metrics(self._directory.path), self.step, status == "diverged"),
            "best_step": self._best.step if self._best else None,
            **({} if state.guard is None else {"skipped_steps": int(state.guard.skipped)}),
            **rollback.record(config, self.rollbacks),
            **gradient_noise.record(state.noise),
            "params_trained": transfer.trained(state.params, self.inputs.step_spec.lr_multipliers),
            **transforms.facts(config, state.params, self._axes, state.masks),
            "last_good": self._metrics.last_good if status == "diverged" else None,
            "wall_seconds": self._metrics.earlier + time.perf_counter() - self._opened,
            "train_seconds": seconds,
            "compile_seconds": self._batch.compile_seconds,
            "compiles": self._batch.compiles,
            "pack": self._batch.size,
            "continued_from": self._continued_from,
            "damaged_checkpoints": checkpoint.damaged_steps(self._directory.path),
        }
        self._saving.close()
        with jax.set_mesh(self._batch.mesh):
            cost, facts = self._family.cost(config), self.inputs.task.facts()
        result = record.result(config, cost, facts, self._environment, self.step, measured) | self.spec.extra
        self.spec.check()
        self._directory.finish(result)
        self._close(result)

    def _evaluate_at_the_end(self) -> tuple[State, dict[str, Any]]:
        """The last state, or the best where the run chooses by patience, its checkpoint kept, and its scores."""
        config, checkpoints, best, step = self.inputs.config, self._checkpoints, self._best, self.step
        state, chosen = self._state, best.step if best is not None and best.step != step else None
        if chosen is not None:
            checkpoints.wait()
            state = checkpoints.restore(chosen, self._batch.programs.abstract, self._batch.programs.shardings)
        try:
            scores = self._evaluate(state, final=True)
        except evaluation.Stopped:
            if chosen is None:  # else the checkpoints hold what leads here again
                checkpoints.save(step, state)
                checkpoints.wait()
            raise Interrupted(self._stop[0], step) from None
        if config.checkpoint.final:
            checkpoints.save(step, state)
        if config.quantize.post:
            scores["post"] = evaluation.after_training(self.inputs.task, config, self._axes, state, self._batch.mesh)
        return state, scores

    def _evaluate(self, state: State, final: bool) -> dict[str, Any]:
        task, spec = self.inputs.task, self.inputs.step_spec
        params = evaluation.eval_params(spec.transforms, self._axes, state, self.inputs.hyper)
        # An interim evaluation is soon over, and one host of many may not leave the others.
        stop = self._stop if final and self._environment["num_processes"] == 1 else ()
        matmul = self.inputs.config.precision.matmul
        with self._metrics.clock.paused():
            return evaluation.evaluate(task, params, state.stats, self._batch.mesh, matmul, final, stop)

    def _judge(self) -> early_stopping.Verdict | None:
        section = self.inputs.config.early_stopping
        if not section.patience:
            return None
        judge = functools.partial(
            early_stopping.judge, self._directory.path, self.step, section.metric, section.patience
        )
        found = agreement.of_first("metrics.jsonl", judge)
        return None if found is None else early_stopping.Verdict(*found)

    def _agree(self, n: int) -> tuple[float, Sequence[int]]:
        """Minutes since the last save, and the number of the signal that came, if any; hosts do at a step what any of them
        was asked for, or none of them."""
        minutes, stop = (time.perf_counter() - self._saved_at) / 60, self._stop
        if self._environment["num_processes"] == 1:
            return minutes, stop  # as it is now: a signal may come while the run is evaluated
        if not self._crossed(n, self.inputs.config.log.every):
            return 0.0, ()
        minutes, number = agreement.largest(minutes, stop[0] if stop else 0)
        return minutes, [int(number)] if number else ()

    def _crossed(self, n: int, every: int) -> bool:
        """Whether a multiple of `every` lies among the last n steps."""
        return bool(every) and self.step // every > (self.step - n) // every

    def _close(self, result: dict[str, Any]) -> None:
        self._resources.close()
        self.outcome = result
