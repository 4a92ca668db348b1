"""The training loop: a compiled call takes a few steps of every run of a batch, then each run sees to itself.

`train` is the whole of it. What is compiled, and the states of the runs, belong to `training.run_batch`; what a run does
between calls (logging, evaluating, saving, stopping, its record) is `training.run_session`.
"""

import contextlib
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from training import agreement
from training.files import refuse_object_storage
from training.metrics import Logger
from training.nets import kernel_check
from training.run_batch import RunBatch
from training.run_session import RunSession, RunSpec
from training.signals import Interrupted, stoppable


def run(
    config: ConfigDict,
    workdir: Path | str,
    loggers: Iterable[Logger] = (),
    allow_change: tuple[str, ...] = (),
    extra: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Train one run to its end, or continue it from its last checkpoint; returns its result.

    Args: as in `training.run_session.RunSpec`; a run that has ended in `workdir` is returned as it is.
    Raises:
      BadInput: a config, workdir, checkpoint or corpus that does not fit.
      Interrupted: stopped by a signal, after saving a checkpoint.
    """
    refuse_object_storage("workdir", workdir)
    (outcome,) = train([RunSpec(config, Path(workdir), tuple(loggers), allow_change, extra or {})])
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def train(specs: Sequence[RunSpec]) -> list[dict[str, Any] | Exception]:
    """Train runs of one shape, all in one program; an error in one of them does not disturb the others.

    Args:
      specs: of runs whose models, batches and optimizers have equal shapes; one run is a batch of one.
    Returns:
      For each run its result, or the error that ended it.
    Raises:
      Interrupted: stopped by a signal, after every run has saved a checkpoint.
    """
    with contextlib.ExitStack() as stack:
        sessions = [stack.enter_context(RunSession(spec)) for spec in specs]
        for session in sessions:
            with session.isolated():
                session.open()
        _train_together([session for session in sessions if session.running])
    outcomes = [session.outcome for session in sessions]
    for outcome in outcomes:
        if isinstance(outcome, Interrupted):
            raise outcome
    return outcomes  # type: ignore[return-value]


def _train_together(sessions: Sequence[RunSession]) -> None:
    """Take open runs from their last checkpoints to their ends."""
    if not sessions:
        return
    with stoppable() as stop:
        try:
            with agreement.all_succeed("compilation"):
                batch = RunBatch([session.inputs for session in sessions])
                kernel_check.check_used()
            for i, session in enumerate(sessions):
                with session.isolated():
                    session.begin(batch, i, stop)
            batch.start(_steps(sessions))
        except Exception as error:  # of the batch: it cannot be compiled, or not be held
            for session in sessions:
                session.fail(error)
        while live := [session for session in sessions if session.running]:
            began, n = time.perf_counter(), min(session.steps_per_call for session in live)
            done = _steps(sessions)
            metrics = batch.step(batch.batches(_batch_numbers(sessions), n), batch.learning_rates(done, n))
            share = (time.perf_counter() - began) / len(live)
            for i, session in enumerate(sessions):
                if session.running:
                    with session.isolated():
                        session.after_steps(n, metrics[i], share)


def _steps(sessions: Sequence[RunSession]) -> list[int | None]:
    """The optimizer steps that each run has taken; None of one that has ended."""
    return [session.step if session.running else None for session in sessions]


def _batch_numbers(sessions: Sequence[RunSession]) -> list[int | None]:
    """The number of each run's next batch: the steps done, unless it has left batches out."""
    return [session.batch_number if session.running else None for session in sessions]
