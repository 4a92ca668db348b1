"""`isoflop study`: from one config file to a law, a prediction that was frozen before it could be known, and its score."""

import contextlib
import json
import math
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags as absl_flags

from isoflop import cli
from isoflop.cli import Output
from isoflop.commands._sweep_flags import define_launch, launch_options, launch_words, sweep_directory
from sweeps import design, launch
from training import extras
from training.errors import BadInput
from training.files import read_json, write_json

EXAMPLE = """
isoflop study --config=configs/lm/demo.py --workdir=runs/demo
isoflop study --config=configs/vision/scaling.py:vit-fashion --workdir=runs/vit
isoflop study --config=configs/lm/demo.py --workdir=/shared/demo --launcher=slurm --workers=8 --launcher_option=time=120
"""
CONFIG = True
ROUNDS = 3  # in which sizes are added where a best size lies at an edge


class StepFailed(RuntimeError):
    """A step ended with an error, which it has told."""

    exit_code = 1


def define(flags: absl_flags.FlagValues) -> None:
    """The flags of the command."""
    absl_flags.DEFINE_string("workdir", None, "The study's directory; made on first use.", flag_values=flags)
    define_launch(flags)


def run(flags: absl_flags.FlagValues, args: list[str]) -> Output:
    """Run what is not done of the study; the exit code is that of its score."""
    config = flags.config
    folder = sweep_directory(flags, args, "study")
    budgets = sorted({point["label.budget"] for point in config.design if "label.budget" in point})
    if len(budgets) < 2:
        raise BadInput("--config: a study needs a design of two budgets or more (sweeps.design.isoflop)")
    if not 1 <= config.study.held_out < len(budgets):
        raise BadInput(
            f"--config: study.held_out: must be from 1 to {len(budgets) - 1} of {len(budgets)} budgets, "
            f"got {config.study.held_out}"
        )
    held_out = budgets[-config.study.held_out :]
    below = [point for point in config.design if point.get("label.budget", held_out[0]) < held_out[0]]
    if any((design.trunk_of(point) or {}).get("duration.flops", 0) >= held_out[0] for point in below):
        raise BadInput(
            f"--config: runs of {said(held_out[0])} FLOPs are held out, and they are trunks of others: give branches of "
            "the budgets below, and held-out ones of their own"
        )
    launch.launcher(flags.launcher).check(launch_options(flags))
    extras.require("study: its figures and report", "matplotlib", "plotly", "jinja2", "markupsafe")
    began = time.monotonic()
    steps = _Steps(config.study, folder, list(flags.config_words), launch_words(flags))
    with contextlib.redirect_stdout(sys.stderr) if flags.json else contextlib.nullcontext():
        code = steps.run(held_out)
    files = [steps.file(f"score{suffix}.json") for suffix in suffixes(held_out)]
    scores = [json.loads(file.read_text()) if file.exists() else None for file in files]
    lines = [
        *_lines(held_out, scores),
        f"{time.monotonic() - began:.0f} s in all; the report is {steps.file('report.html')}",
    ]
    return Output({"workdir": flags.workdir, "held_out": held_out, "scores": scores}, "\n".join(["", *lines]), code)


def suffixes(held_out: Sequence[float]) -> list[str]:
    """What the names of the files of each held-out budget end in: nothing for the largest, else the budget."""
    return [*(f"_{said(budget)}" for budget in held_out[:-1]), ""]


def _lines(held_out: Sequence[float], scores: Sequence[dict[str, Any] | None]) -> list[str]:
    """A line for each of several held-out budgets.

    Args:
      held_out: FLOPs.
      scores: content of their `score.json`; None where there is none.
    """
    lines = []
    for budget, score in zip(held_out, scores, strict=True) if len(held_out) > 1 else ():
        if score is None:
            lines.append(f"{said(budget)} FLOPs: no score")
            continue
        low, high = score["predicted"]["interval"]
        lines.append(
            f"{said(budget)} FLOPs: forecast {score['predicted']['loss']:.5f} [{low:.5f}, {high:.5f}], measured "
            f"{score['measured']['loss']:.5f}: {score['abs_rel_error']:.2%} off, "
            f"{'inside' if score['covered'] else 'OUTSIDE'}"
        )
    return lines


class _Steps:
    """Every step is a command that a person could type; it is printed before it runs. What is done is not done again."""

    def __init__(self, study: Any, folder: Path, config: list[str], launching: list[str]):
        self._study, self._folder, self._config, self._launching = study, folder, config, launching

    def file(self, name: str) -> Path:
        """Of the study's directory."""
        return self._folder / name

    def run(self, held_out: Sequence[float]) -> int:
        """All steps; the highest exit code of the scores.

        Args:
          held_out: FLOPs of the budgets that are predicted before any of them is trained, the smallest first.

        Raises:
          BadInput: the study has frozen predictions of other budgets.
        """
        sweep, fit = self.file("sweep"), self.file("fit.json")
        frozen = [self.file(f"prediction{suffix}.json") for suffix in suffixes(held_out)]
        self._check_frozen(held_out, frozen)
        say("doctor", check=False)
        say("plan", *self._config, "--nomemory")
        if not any(file.exists() for file in frozen):
            below = f"budget<{said(held_out[0])}"
            self.grow(below)
            columns = [f"--{variable}_column={self._study[variable]}" for variable in ("d", "loss")]
            where = [f"--where={below}", f"--target={said(held_out[-1])}"]
            say("fit", sweep, f"--law={self._study.law}", *columns, *where, f"--out={fit}")
        for budget, file in zip(held_out, frozen, strict=True):
            if not file.exists():
                # From here on the prediction cannot change: it carries the hash of what it was made from.
                say("predict", fit, f"--compute={said(budget)}", f"--freeze={file}")
        codes = []
        for budget, file, suffix in zip(held_out, frozen, suffixes(held_out), strict=True):
            self.grow(f"budget=={said(budget)}")
            codes.append(say("score", file, sweep, f"--out={self.file(f'score{suffix}.json')}", check=False))
        code = max(codes)
        say("plot", fit, f"--out={self.file('figures')}")
        say("report", self._folder)
        return code

    def _check_frozen(self, held_out: Sequence[float], frozen: Sequence[Path]) -> None:
        """Raise BadInput where the study holds predictions of other budgets: its law was fitted without others.

        Args:
          held_out: FLOPs of the budgets that are held out.
          frozen: the files of their predictions.
        """
        others = sorted(set(self._folder.glob("prediction*.json")) - set(frozen))
        budgets = {file: self._budget(file) for file in (*others, *frozen) if file.exists()}
        wanted = dict(zip(frozen, held_out, strict=True))
        changed = [file for file, budget in budgets.items() if budget != wanted.get(file)]
        # The smallest is frozen first: where it is missing and others are there, more budgets are held out than were.
        if changed or (budgets and frozen[0] not in budgets):
            raise BadInput(
                f"{self._folder}: its predictions are of {', '.join(said(budget) for budget in sorted(budgets.values()))} "
                f"FLOPs, and {', '.join(map(said, held_out))} are held out now: give another --workdir"
            )

    @staticmethod
    def _budget(file: Path) -> float:
        """The FLOPs of a frozen prediction."""
        try:
            return float(read_json(file)["prediction"]["inputs"]["c"])
        except (KeyError, TypeError, ValueError):
            raise BadInput(f"{file}: not the frozen prediction of a budget") from None

    def grow(self, where: str) -> None:
        """Train the points of some budgets; where the best size is the smallest or largest one, add the next and say so."""
        added = self.file("added.json")
        for _ in range(ROUNDS):
            points = [f"--points={added}"] if added.exists() else []
            folder = [f"--workdir={self.file('sweep')}", f"--where={where}"]
            say("sweep", *self._config, *points, *folder, *self._launching)
            new_points = (
                edges(self.file("sweep"), where, self._study.size, self._study.loss) if self._study.size else []
            )
            if not new_points:
                break
            for point in new_points:
                size = f"{self._study.size} = {point[self._study.size]:g}"
                print(
                    f"\nthe best size at {point['label.budget']:g} FLOPs is at the edge of its sizes: {size} is added"
                )
            write_json(added, [*(design.table(added) if added.exists() else ()), *new_points])


def said(value: float) -> str:
    """A number as short as it can be said without changing it."""
    return f"{value:g}" if float(f"{value:g}") == value else repr(float(value))


def edges(sweep: Path, where: str, key: str, loss: str = "loss") -> list[design.Point]:
    """For each budget whose lowest loss is at its smallest or largest size: a point with the next size beyond.

    Not where that size is better than the second best by less than a standard error of their difference, by how much
    seeds differ in all the sweep: that is no sign that smaller or larger ones would be better.

    Args:
      sweep: the sweep directory.
      where: which budgets, in the language of `isoflop fit --where`.
      key: of the config, which makes the size.
      loss: the column that is lowest at the best size.
    """
    import numpy as np
    import pandas as pd

    from sweeps import collect

    runs: Any = pd.read_parquet(collect.collect(sweep))
    chosen = runs.eval(where, engine="python")
    completed = runs[runs.status == "completed"].assign(log=lambda table: np.log(table[loss]))
    spread = completed.groupby(["budget", key])["log"].var(ddof=1).mean()  # of those with several seeds
    new_points = []
    for budget, group in completed[chosen[completed.index]].groupby("budget"):
        mean, count = (getattr(group.groupby(key)["log"], name)().sort_index() for name in ("mean", "count"))
        sizes, best = list(mean.index), mean.idxmin()
        if best not in (sizes[0], sizes[-1]):
            continue
        size = beyond(sizes[::-1] if best == sizes[0] else sizes)
        second = mean.drop(best).idxmin() if len(sizes) > 1 else best
        noise = np.sqrt(np.nan_to_num(spread) * (1 / count[best] + 1 / count[second]))
        if size > 0 and mean[second] - mean[best] > noise:
            new_points.append({"label.budget": budget, "duration.flops": budget, key: size})
    return new_points


def beyond(sizes: list[Any]) -> Any:
    """The size after the last two at their ratio; of whole numbers, one that shares their common divisor, or 0."""
    if len(sizes) < 2:
        return 0
    before, last = sizes[-2:]
    following = last * last / before
    if any(size != int(size) for size in sizes):
        return following
    unit = math.gcd(*map(int, sizes))
    return unit * round(following / unit) if round(following / unit) * unit != last else 0


def say(*words: object, check: bool = True) -> int:
    """Print a command as a person would type it, and run it.

    Raises:
      KeyboardInterrupt, Terminated: it was stopped.
      StepFailed: it failed, and `check` asks that none does.
    """
    argv = [str(word) for word in words]
    print(f"\n$ isoflop {shlex.join(argv)}", flush=True)
    code = cli.main(argv)
    sys.stdout.flush()
    for stop, number in cli.STOPS.items():
        if code == 128 + number:
            raise stop
    if check and code:
        raise StepFailed(f"study: isoflop {argv[0]} failed")
    return code
