"""`isoflop train`: one run, from its beginning or from where it was cut."""

import contextlib
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import jax
from absl import flags as absl_flags
from ml_collections import ConfigDict
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from isoflop.cli import Output
from training import cost as costs, hosts, loggers, loop
from training.config import resolve
from training.errors import BadInput
from training.metrics import Logger
from training.process import configure_process
from training.task import Family, resolve as family_of

EXAMPLE = """
isoflop train --config=configs/lm/small.py --workdir=runs/small
isoflop train --config=configs/lm/small.py --workdir=runs/wide --config.model.size=None --config.model.width=256 --profile
srun isoflop train --config=configs/lm/small.py --workdir=/shared/small --distributed=slurm
isoflop train --config=configs/lm/small.py --workdir=/shared/small --coordinator=host0:1234 --num_processes=2 --process_id=1
"""
CONFIG = True


def define(flags: absl_flags.FlagValues) -> None:
    """The flags of the command."""
    absl_flags.DEFINE_string("workdir", None, "The run directory; made on first use.", flag_values=flags)
    absl_flags.DEFINE_list(
        "allow_change", [], "Keys by which a continued run may differ from the one that began.", flag_values=flags
    )
    absl_flags.DEFINE_enum(
        "distributed", None, hosts.CLUSTERS, "Several processes are one run: who they are is told by srun, or by a TPU pod.",
        flag_values=flags,
    )  # fmt: skip
    absl_flags.DEFINE_string("coordinator", None, "HOST:PORT of the first of several processes.", flag_values=flags)
    absl_flags.DEFINE_integer("num_processes", None, "How many processes are one run.", flag_values=flags)
    absl_flags.DEFINE_integer("process_id", None, "Which of them this one is, from 0.", flag_values=flags)
    absl_flags.DEFINE_float(
        "start_timeout", hosts.START_SECONDS, "Seconds to wait for all processes to come.", flag_values=flags
    )
    absl_flags.DEFINE_boolean("profile", False, "Write a JAX profile of a few steps.", flag_values=flags)
    absl_flags.DEFINE_boolean("tensorboard", False, "Mirror the metrics to TensorBoard files.", flag_values=flags)
    absl_flags.DEFINE_boolean("wandb", False, "Mirror the metrics to Weights & Biases.", flag_values=flags)


def run(flags: absl_flags.FlagValues, args: list[str]) -> Output:
    """Train, and show the record."""
    config, workdir = flags.config, flags.workdir
    if args:
        raise BadInput(f"train takes no operands, got {args[0]!r}")
    if "design" in config:
        raise BadInput("--config: this is a sweep, not one run; use isoflop sweep")
    if not workdir:
        raise BadInput("--workdir=DIR is missing: a folder for the run, made on first use")
    _join(flags)
    # Before anything is written: most mistakes end here.
    resolved = resolve(config)
    family_of(resolved.task).available(resolved)
    configure_process()
    path = Path(workdir).absolute()
    with contextlib.ExitStack() as stack:
        first = jax.process_index() == 0  # of several processes one is to be seen
        watchers = [stack.enter_context(watching(resolved))] if first else []
        if flags.profile:
            watchers.append(stack.enter_context(loggers.profiler(path)))
        copies = []
        if flags.tensorboard:
            copies.append(stack.enter_context(loggers.tensorboard(path)))
        if flags.wandb:
            copies.append(stack.enter_context(loggers.wandb(path, resolved.to_dict(), resolved.derived.run_id)))
        result = loop.run(config, path, [*watchers, *copies], tuple(flags.allow_change))
        for log in copies:
            log(result["steps"], {f"final_{name}": result.get(name) for name in ("loss", "loss_sem", "train_loss")})
    text = _text(result, path) if first else f"process {jax.process_index()} is done"
    return Output(result, text, 0 if result["status"] == "completed" else 1)


def _join(flags: absl_flags.FlagValues) -> None:
    """Become one of the processes of a run, where the flags say that there are several."""
    if flags.distributed == "tpu":
        jax.distributed.initialize(flags.coordinator, flags.num_processes, flags.process_id)
        return
    where = hosts.this_process(flags.distributed, flags.coordinator, flags.num_processes, flags.process_id)
    if where is not None:
        hosts.join(where, flags.start_timeout)


@contextlib.contextmanager
def watching(config: ConfigDict) -> Iterator[Logger]:
    """A logger that shows a run on standard error: a bar on a terminal, a line now and then elsewhere."""
    console = Console(file=sys.stderr, highlight=False)
    family, total = family_of(config.task), config.derived.steps
    cost, (unit, amount) = family.cost(config), _unit(family, family.cost(config).tokens_per_example)
    last_line: list[tuple[float, int]] = []  # time and step of the last line; empty before the first

    def describe(step: int, metrics: dict[str, Any]) -> str:
        parts, now = [f"loss {metrics['loss']:.4f}"], time.monotonic()
        # What comes before the first is no measure: it holds compiling, and a run that goes on begins late.
        if last_line and now > last_line[-1][0]:
            speed = (step - last_line[-1][1]) / (now - last_line[-1][0])
            parts.append(f"{speed * config.batch_size * amount:,.0f} {unit}/s")
            used = _mfu(speed * config.batch_size * cost.flops_exact, config)
            parts += [] if used is None else [f"MFU {used:.1%}"]
            parts.append(f"{timedelta(seconds=round((total - step) / speed))} left")
        last_line[:] = [(now, step)]
        return "  ".join(parts)

    if not console.is_terminal:

        def line(step: int, metrics: dict[str, Any]) -> None:
            if not last_line or time.monotonic() - last_line[-1][0] > 10 or step == total:
                console.print(f"step {step:,}/{total:,}  {describe(step, metrics)}")

        yield line
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(f"{cost.params_total:,} parameters: compiling", total=total)
        yield lambda step, metrics: bar.update(task, completed=step, description=describe(step, metrics))


def _unit(family: Family, tokens_per_example: int) -> tuple[str, int]:
    """What people count a run of this family in, and how many of it an example is."""
    return family.UNIT, tokens_per_example if family.UNIT == "tokens" else 1


def _mfu(flops_per_second: float, config: ConfigDict) -> float | None:
    peak = costs.peak_flops(jax.devices()[0].device_kind, config.precision.compute, config.precision.matmul)
    return costs.mfu(flops_per_second, 1.0, jax.device_count(), peak)


def _text(result: dict[str, Any], path: Path) -> str:
    unit, amount = _unit(family_of(result["task"]), result["tokens"] // max(result["examples"], 1))
    total = result["examples"] * amount
    lines = [f"run {result['run_id']} {result['status']} after {result['steps']:,} steps, {total:,} {unit}"]
    if result["loss"] is not None:
        error = "" if result["loss_sem"] is None else f" ± {result['loss_sem']:.4f}"
        right = f", accuracy {result['accuracy']:.2%}" if "accuracy" in result else ""
        lines.append(f"loss {result['loss']:.4f}{error}{right} on {result.get('eval_set', 'the evaluation set')}")
    if result["tokens_per_second"]:
        mfu = "" if result["mfu"] is None else f", MFU {result['mfu']:.1%}"
        speed = result["tokens_per_second"] * total / result["tokens"]
        lines.append(f"{speed:,.0f} {unit}/s{mfu}, {result['wall_seconds']:.1f} s in all")
    return "\n".join([*lines, str(path / "result.json")])
