"""Fitting speed: CPU seconds and memory of whole processes, imports and compilation included.

    git worktree add ../base 42f1c91
    pip install --target ../peer --no-deps --ignore-requires-python simple-scaling-laws==0.2.0 polars polars-runtime-32
    python -m benchmarks.fit --baseline ../base --peer ../peer --out benchmarks/results/fit.json

`fit` is `isoflop fit` with its defaults on the 240 Chinchilla runs: certificate, 1,000 resamples, profile likelihood,
weights of rival forms, approach 2. It takes turns with the same command of an earlier build (`--baseline`, a checkout of
commit 42f1c91) and with the command of a peer, simple-scaling-laws (PyPI; its extra in Python 3.12 is `bench`, and
`--peer` names a folder with it elsewhere), which fits the same runs with as many draws by numpy and scipy. `import` is
`import laws`. All have one thread for BLAS. Every side is run once unmeasured, then `--rounds` times in turn, and medians
are reported beside targets; where one is missed the profile of the command follows. `--once` adds sides of minutes, which
are run once: those of `benchmarks.fit_contenders`, and the command on 99,792 rows of 432 simulated learning curves,
without and with resamples.
"""

import argparse
import csv
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.fit_contenders import DROPPED, RESAMPLES as MANY, SIDES as LOOPS, published, runs, table

ROOT = Path(__file__).parents[1]
RESAMPLES = 1_000  # the default of `isoflop fit`, and of the peer
PEER = "simple_scaling_laws"
PUBLISHED_SECONDS = 460.0  # CPU seconds of Besiroglu et al.'s scripts, starts and 4,000 bootstraps, on two cores
ISOFLOP, PEER_COMMAND = "from isoflop.cli import entry; entry()", f"from {PEER}.cli import main; main()"
PROFILE = """
import cProfile, pstats, time
profiler = cProfile.Profile(time.process_time)
profiler.enable()
import isoflop.cli
isoflop.cli.main()
profiler.disable()
pstats.Stats(profiler).sort_stats("cumulative").print_stats(30)
"""
COLUMNS = ("params", "tokens", "flops")  # of the table, for n, d and c
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # idle threads of BLAS spin, and their seconds count
FIGURES = ("cpu_seconds", "system_seconds", "wall_seconds", "memory_mb")


@dataclass(frozen=True)
class Side:
    """A process that is measured.

    Args:
        arguments: of the Python interpreter.
        path: folders from which it imports first.
    """

    arguments: list[str]
    path: tuple[Path, ...] = (ROOT,)

    def start(self, folder: Path) -> dict[str, float]:
        """Run it in a folder; returns CPU seconds, wall seconds and peak memory in MB.

        Raises:
            RuntimeError: it fails.
        """
        environment = os.environ | ONE_THREAD | {"PYTHONPATH": os.pathsep.join(map(str, self.path))}
        with (folder / "output.txt").open("w+") as output:
            began = time.perf_counter()
            process = subprocess.Popen(
                [sys.executable, *self.arguments], cwd=folder, env=environment, stdout=output, stderr=output
            )
            _, status, usage = os.wait4(process.pid, 0)
            seconds = time.perf_counter() - began
            process.returncode = os.waitstatus_to_exitcode(status)
            if process.returncode:
                output.seek(0)
                raise RuntimeError(f"{' '.join(self.arguments)} ended with {process.returncode}: {output.read()}")
        cpu_seconds = usage.ru_utime + usage.ru_stime
        return dict(zip(FIGURES, (cpu_seconds, usage.ru_stime, seconds, usage.ru_maxrss / 1e3), strict=True))


@dataclass(frozen=True)
class Target:
    """What a side may take: so much, or so many times what another takes."""

    side: str
    figure: str
    limit: float
    of: str | None = None

    def judge(self, medians: dict[str, dict[str, float]]) -> dict[str, Any] | None:
        """The figure beside its limit; None where a side was not measured."""
        if self.side not in medians or (self.of and self.of not in medians):
            return None
        measured = medians[self.side][self.figure] / (medians[self.of][self.figure] if self.of else 1.0)
        name = f"{self.figure} of {self.side}" + (f", relative to {self.of}" if self.of else "")
        return {"target": name, "measured": measured, "limit": self.limit, "met": measured <= self.limit}


TARGETS = (
    Target("fit", "cpu_seconds", 0.25, of="baseline"),
    Target("fit", "cpu_seconds", 1.5, of="peer"),
    Target("fit", "memory_mb", 0.5, of="baseline"),
    Target("import", "cpu_seconds", 0.3),
)


def peer_table(path: Path) -> None:
    """The 240 runs under the column names that the peer reads."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("training_run_id", "model_size__n_params", "dataset_size__n_tokens", "test_loss__ce"))
        writer.writerows((f"run{i}", row["params"], row["tokens"], row["loss"]) for i, row in enumerate(runs()))


def learning_curves(path: Path) -> None:
    """Losses along 432 simulated runs of random size and length, off the law by 0.4% a run and 0.2% a row."""
    rng = np.random.default_rng(0)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("run", *COLUMNS[:2], "loss"))
        for run in range(432):
            n, off = 10 ** rng.uniform(7, 10), 0.004 * rng.standard_normal()
            d = np.geomspace(1e8, 10 ** rng.uniform(9.5, 11.5), 231)
            loss = (1.8 + 480 / n**0.34 + 2100 / d**0.37) * np.exp(off + 0.002 * rng.standard_normal(len(d)))
            writer.writerows((run, n, *row) for row in zip(d, loss, strict=True))


def sides(folder: Path, baseline: Path | None, peer: Path | None) -> dict[str, Side]:
    """The processes that take turns, by name.

    Args:
        folder: where they may read and write.
        baseline: a checkout of commit 42f1c91, whose flags had other names.
        peer: a folder from which the peer is imported, where the environment does not hold it.
    """
    flags = [str(table()), f"--drop_highest={DROPPED}", "--out=fit.json"]
    fit = ["-c", ISOFLOP, "fit", *flags]
    named = lambda suffix: [f"--{name}{suffix}={column}" for name, column in zip("ndc", COLUMNS, strict=True)]
    chosen = {"fit": Side([*fit, *named("_column")]), "import": Side(["-c", "import laws"])}
    if baseline:
        chosen["baseline"] = Side([*fit, *named("")], (baseline,))
    if peer or importlib.util.find_spec(PEER):
        peer_table(folder / "peer.csv")
        options = ["--law=separable-power", f"--draws={RESAMPLES}", "--output=peer.slaw"]
        chosen["peer"] = Side(["-c", PEER_COMMAND, "fit", "peer.csv", *options], (peer,) if peer else ())
    return chosen


def sides_once(folder: Path, sample: int) -> dict[str, Side]:
    """The processes that are run once, by name.

    Args:
        folder: where they may read and write.
        sample: how many starts and resamples a loop over scipy runs.
    """
    learning_curves(folder / "curves.csv")
    columns = [f"--{name}_column={column}" for name, column in zip(("n", "d"), COLUMNS, strict=False)]
    curves = ["-c", ISOFLOP, "fit", "curves.csv", "--run_column=run", "--out=curves.json", *columns]
    contender = lambda side: Side(["-m", "benchmarks.fit_contenders", side, f"--sample={sample}"])
    return {
        **{side: contender(side) for side in LOOPS},
        **{f"curves_{resamples}": Side([*curves, f"--resamples={resamples}"]) for resamples in (0, 200)},
    }


def in_turn(chosen: dict[str, Side], rounds: int, folder: Path) -> dict[str, list[dict[str, float]]]:
    """Figures of every side in every round, after one that is not counted."""
    for side in chosen.values():
        side.start(folder)
    measured: dict[str, list[dict[str, float]]] = {name: [] for name in chosen}
    for _ in range(rounds):
        for name, side in chosen.items():
            measured[name].append(side.start(folder))
    return measured


def once(chosen: dict[str, Side], folder: Path) -> dict[str, dict[str, Any]]:
    """Figures of every side, and what it printed as JSON."""
    measured = {}
    for name, side in chosen.items():
        measured[name] = side.start(folder)
        printed = (folder / "output.txt").read_text().splitlines()
        if name in LOOPS:
            measured[name] |= json.loads(printed[-1])
    return measured


def profile(side: Side, folder: Path) -> str:
    """Where the CPU seconds of a command go, by cumulative time."""
    Side(["-c", PROFILE, *side.arguments[2:]], side.path).start(folder)
    text = (folder / "output.txt").read_text()
    return text[text.index("function calls") :]


def lines(medians: dict[str, dict[str, float]], targets: list[dict[str, Any]]) -> str:
    """The comparison for people."""
    rows = [f"{'side':<18}{'CPU s':>8}{'system':>8}{'wall s':>8}{'MB':>8}"]
    for name, figures in medians.items():
        times = "".join(f"{figures[key]:>8.2f}" for key in ("cpu_seconds", "system_seconds", "wall_seconds"))
        rows.append(f"{name:<18}{times}{figures['memory_mb']:>8.0f}")
    for target in targets:
        verdict = "met" if target["met"] else "missed"
        rows.append(f"{verdict}: {target['target']} {target['measured']:.3g}, at most {target['limit']:g}")
    return "\n".join(rows)


def main() -> int:
    """Measure, print a table, and write JSON if asked; 1 where a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--baseline", type=Path, help="a checkout of commit 42f1c91")
    parser.add_argument("--peer", type=Path, help="a folder with simple-scaling-laws, where it is not installed")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--once", action="store_true", help="also what takes minutes, once")
    parser.add_argument("--sample", type=int, default=60, help="starts and resamples that a loop over scipy runs")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if not published().is_dir():
        print(f"golden tables are absent: {published()} (ISOFLOP_PUBLISHED)", file=sys.stderr)
        return 2
    baseline, peer = (path and path.resolve() for path in (options.baseline, options.peer))
    for path in (baseline, peer):
        if path and not path.is_dir():
            print(f"{path}: no such folder", file=sys.stderr)
            return 2
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        chosen = sides(folder, baseline, peer)
        measured = in_turn(chosen, options.rounds, folder)
        medians = {
            side: {figure: statistics.median(turn[figure] for turn in turns) for figure in FIGURES}
            for side, turns in measured.items()
        }
        single = once(sides_once(folder, options.sample), folder) if options.once else {}
        judged = [verdict for target in TARGETS if (verdict := target.judge(medians)) is not None]
        missed = [verdict for verdict in judged if not verdict["met"]]
        text = lines(medians | single, judged)
        if missed:
            text += "\n\n" + profile(chosen["fit"], folder)
    print(text)
    report = {
        "task": f"the 240 Chinchilla runs, {RESAMPLES} draws, whole processes, medians of {options.rounds}",
        "published_scripts_cpu_seconds": PUBLISHED_SECONDS,
        "targets": judged,
        "medians": medians,
        "rounds": measured,
        "once": {"loops": f"point fit and {MANY} bootstraps of the same runs"} | single,
        "machine": {"cores": os.cpu_count(), "processor": platform.machine(), "python": platform.python_version()},
        "load": os.getloadavg()[0],
    }
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(report, indent=1) + "\n")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
