"""`isoflop.sweep`: an iso-FLOP sweep of a Flax module of one's own, in one call, from Python."""

import contextlib
import hashlib
import inspect
import json
import sys
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import flax.linen as nn
import jax
import pandas as pd
from ml_collections import ConfigDict

import laws
from isoflop.module_family import Batches, ModuleFamily
from sweeps import collect, design, plan as plans, plan_storage, sweep_dir, worker
from sweeps.worker_job import WorkerJob
from training import task
from training.errors import RunFailed

if TYPE_CHECKING:
    from laws import FitResult, Law

# Columns of the plan, by what they are called there.
PLANNED = {
    "model.width": "width",
    "budget": "budget",
    "seed": "seed",
    "params_total": "params",
    "tokens": "tokens",
    "steps": "steps",
    "flops_exact": "flops",
    "peak_lr": "learning_rate",
}


class ModuleSweep:
    """A planned sweep of a module: what it will train, the training, the records and the law.

    Attributes:
        plan: one row a run, by run id: width, budget, parameters, tokens, steps, exact FLOPs, learning rate.
        refused: one row a point that is not run, and why.
        workdir: the sweep directory, which `isoflop status`, `collect` and `fit` read too.
    """

    def __init__(self, planned: plans.Plan, workdir: Path):
        self._plan, self.workdir = planned, workdir
        rows = [{**point.overrides, **point.labels, **point.counts} for point in planned.points]
        for row, point in zip(rows, planned.points, strict=True):
            assert point.config is not None
            row["peak_lr"] = point.config.optimizer.learning_rate
        index = pd.Index([point.run_id for point in planned.points], name="run_id")
        table: Any = pd.DataFrame(rows, index=index)
        self.plan: pd.DataFrame = table[list(PLANNED)].rename(columns=PLANNED)
        points = [{**point.overrides, **point.labels, "reason": point.refused} for point in planned.refused]
        self.refused = pd.DataFrame(points)

    def __repr__(self) -> str:
        refused = f", {len(self.refused)} points refused" if len(self.refused) else ""
        return f"<ModuleSweep of {len(self.plan)} runs, {self._plan.flops:.3g} exact FLOPs{refused}, in {self.workdir}>"

    def run(self) -> "ModuleSweep":
        """Train, in this process, every run that has not ended; a run that was cut goes on from its checkpoint.

        Returns:
            the sweep itself.

        Raises:
            RunFailed: runs failed; the message is that of the first.
            Interrupted: by a signal; the same call continues.
        """
        sweep = plan_storage.add_points(self.workdir.absolute(), self._plan)
        left = [i for i in self.plan.index if sweep_dir.state(sweep, i) not in sweep_dir.ENDED]
        if left:
            with _progress(self._plan.name, len(self.plan), len(self.plan) - len(left)) as report:
                worker.work(WorkerJob(str(sweep.path), tuple(left), uuid.uuid4().hex), report)
        failures = {i: sweep_dir.failure(sweep.run(i)) for i in left if sweep_dir.state(sweep, i) == "failed"}
        if failures:
            run_id, failure = next(iter(failures.items()))
            raise RunFailed(
                f"{len(failures)} of {len(left)} runs failed, first {run_id}: {(failure or {}).get('message')}"
            )
        return self

    @property
    def table(self) -> pd.DataFrame:
        """The records of the runs of this plan that have ended, one row a run, with every convention of N and C."""
        runs: Any = pd.read_parquet(collect.collect(self.workdir))
        return runs[runs["run_id"].isin(list(self.plan.index))].reset_index(drop=True)

    def fit(self, law: "str | Law" = "chinchilla", **options: Any) -> "FitResult":
        """The law of the runs that have ended: N counted, D in tokens (or examples), C in exact training FLOPs.

        Args:
            law: a name of ``laws.LAWS``, or a declaration.
            options: of ``laws.Runs.fit``, as ``resamples`` and ``holdout_above``.

        Raises:
            InputError: there are too few runs.
        """
        return laws.load(self.table).fit(law, **options)


def sweep(
    module: Callable[[int], nn.Module],
    *,
    widths: Sequence[int],
    batches: Callable[..., Any],
    loss: Callable[..., jax.Array],
    budgets: Sequence[float],
    learning_rate: float | Callable[[int], float] = 3e-3,
    batch_size: int | None = None,
    held_out: Callable[..., Any] | None = None,
    eval_batches: int = 8,
    seeds: Iterable[int] = (0,),
    min_steps: int = 100,
    config: dict[str, Any] | None = None,
    name: str | None = None,
    workdir: str | Path | None = None,
) -> ModuleSweep:
    """The plan of an iso-FLOP sweep of a Flax linen module: every width at every budget; ``.run()`` trains, ``.fit()`` fits.

    Nothing of the module is assumed: N is counted from its parameters, FLOPs from the jaxprs of its loss and gradient.

    Args:
        module: width -> module: a class whose first field is its width, or a function.
        widths: of the module, the sizes of the sweep.
        batches: a pure function (step, batch_size) -> batch, or a function without arguments that returns an iterable of
            batches. A batch is a tree of arrays whose first axis is the batch. Of a function, the batches from step 10^9 on
            are evaluated, so it must draw new examples at every step; else give ``held_out``.
        loss: (module, batch) -> losses of the examples, or of each token of each, or their mean. ``module`` is bound: it is
            called on what it reads, as in ``module(batch["x"])``. With an argument ``train`` it is told whether it trains.
        budgets: exact training FLOPs of a run.
        learning_rate: at the peak of the schedule; a function takes the width. A law is one of the rates it was made with.
        batch_size: examples of a batch; 32, or what the iterable holds.
        held_out: evaluation batches, as ``batches``.
        eval_batches: how many are evaluated.
        seeds: runs of each width and budget; several tell the noise.
        min_steps: points with fewer steps are refused.
        config: more keys of a run by dotted names, as ``{"optimizer.name": "muon", "schedule.warmup_fraction": 0.1}``.
        name: of the sweep; the module's.
        workdir: the sweep directory; ``runs/NAME``.

    Returns:
        the plan.

    Raises:
        BadInput: names the argument at fault, or no point of the design has enough steps.
    """
    label = str(getattr(module, "__name__", type(module).__name__)).strip("<>")
    source = Batches(batches, batch_size, held_out, eval_batches)
    parts = [module, loss, batches, *([held_out] if held_out else [])]
    fingerprint = _fingerprint(parts, source.shapes, source.batch_size)
    family = ModuleFamily(f"module_{fingerprint}", label, module, source, loss, fingerprint)
    task.register(family.name, family)  # type: ignore[arg-type]
    rate = learning_rate if callable(learning_rate) else lambda width: learning_rate
    points = design.product(
        design.axis("duration.flops", map(float, budgets)),
        design.table({"model.width": int(width), "optimizer.learning_rate": float(rate(width))} for width in widths),
        design.axis("seed", seeds),
    )
    labelled = tuple(point | {"label.budget": point["duration.flops"]} for point in points)
    name = name or label
    base = {"task": family.name, "batch_size": source.batch_size, "data": {"fingerprint": fingerprint}}
    base |= {"schedule": {"warmup_fraction": 0.05, "final_fraction": 0.0}, "checkpoint": {"final": False}}
    whole = plans.complete(
        ConfigDict({"name": name, "base": base, "design": labelled, "min_steps": min_steps}), "isoflop.sweep"
    )
    if config:
        with whole.unlocked():
            whole.base = plans.configure(whole.base, dict(config))
    return ModuleSweep(plans.plan(whole), Path(workdir or Path("runs") / name))


def _fingerprint(parts: Sequence[Any], shapes: Any, batch_size: int) -> str:
    """The first 12 hex digits of a hash of the source of what makes the losses, as far as Python can tell it."""
    texts = []
    for part in parts:
        try:
            texts.append(inspect.getsource(part))
        except (OSError, TypeError):  # typed into an interpreter, or no function
            texts.append(getattr(part, "__qualname__", type(part).__qualname__))
    text = json.dumps([texts, shapes, batch_size], default=list)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


@contextlib.contextmanager
def _progress(name: str, total: int, done: int) -> Iterator[Callable[..., None]]:
    """A receiver of the events of `sweeps.worker.work`: a bar on a terminal, nothing elsewhere."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(file=sys.stderr)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        shown = bar.add_task(name, total=total, completed=done)

        def report(event: str, **values: Any) -> None:
            del values
            if event in ("end", "error"):
                bar.advance(shown)

        yield report
