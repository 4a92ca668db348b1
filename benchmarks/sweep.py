"""A sweep of 16 runs of 200 steps by eight plans, whole commands from start to end; prints JSON.

    python -m benchmarks.sweep [--shapes d32,d128,d256] [--plans ours_pinned,...] [--rounds 5] [--out FILE]

The model is that of `benchmarks.contenders`, GPT-2 without biases, at 8 windows of 128 bytes a step. Ours are the commands
that people run: four seeds by four learning rates on real text, with evaluation, records and final checkpoints. The others
are bare loops over one batch of random tokens, which write nothing. Of the plans with a process a run only `--processes`
runs are made, and their time is scaled to 16: it says so.

Plans take turns within a round, so that what else the machine does hits all alike; ratios are medians over the rounds of
the ratio within a round. Compiled programs are kept between the runs of one command, never between commands. With `--out`,
what is in the file already is kept, and a run that was stopped goes on.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks import contenders
from benchmarks.train_step import _machine

ROOT = Path(__file__).parent.parent
RUNS, STEPS = 16, 200
SHAPES = {
    "d32": contenders.Shape(depth=2, width=32, heads=2, length=128, batch=8, vocab=256),
    "d128": contenders.Shape(depth=4, width=128, heads=4, length=128, batch=8, vocab=256),
    "d256": contenders.Shape(depth=6, width=256, heads=8, length=128, batch=8, vocab=256),
}
CONFIG = """
from ml_collections import ConfigDict
from sweeps.design import axis, product

def get_config():
    base = {{
        "task": "lm", "batch_size": {batch}, "duration": {{"steps": {steps}}}, "steps_per_call": 20,
        "model": {{"depth": {depth}, "width": {width}, "heads": {heads}, "mlp_width": {mlp}, "norm": "layer",
                  "positions": "learned", "activation": "gelu", "tied": True}},
        "optimizer": {{"weight_decay": 0.1, "clip": 1.0}},
        "data": {{"corpus": "stdlib", "seq_len": {length}}},
        "evaluation": {{"tokens": 16384}},
        "log": {{"every": 20}},
    }}
    points = product(axis("seed", (0, 1, 2, 3)), axis("optimizer.learning_rate", (1e-3, 2e-3, 3e-3, 4e-3)))
    return ConfigDict({{"name": "bench", "base": ConfigDict(base), "design": points}})
"""


def config(shape: contenders.Shape, folder: Path, steps: int = STEPS) -> Path:
    """The config file of the sweep of a shape."""
    file = folder / "bench.py"
    file.write_text(
        CONFIG.format(
            batch=shape.batch,
            steps=steps,
            depth=shape.depth,
            width=shape.width,
            heads=shape.heads,
            mlp=4 * shape.width,
            length=shape.length,
        )
    )
    return file


def cache(folder: Path) -> str:
    """A cache with the data that is prepared already, and no compiled programs."""
    copy = folder / f"cache-{len(list(folder.glob('cache-*')))}"
    copy.mkdir()
    for file in _cache().iterdir():
        if file.name not in ("compiled", "packs"):
            (copy / file.name).symlink_to(file.absolute())
    return str(copy)


def _cache() -> Path:
    from training import cache

    return cache.folder()


def command(arguments: list[str], cores: list[int] | None = None, **environment: str) -> None:
    """Run a command to its end, on these cores; compiled programs of earlier commands are not there."""
    pinned = ["taskset", "-c", ",".join(map(str, cores))] if cores else []
    done = subprocess.run(
        [*pinned, sys.executable, "-m", *arguments],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": os.environ.get("JAX_PLATFORMS", "cpu")} | environment,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(arguments)}: {done.stderr.strip().splitlines()[-1:]}")


def ours(*flags: str) -> Callable[[str, Path, int], float]:
    """`isoflop sweep` of all runs with these flags; the share of the runs that it makes is 1."""

    def run(shape: str, folder: Path, processes: int) -> float:
        del processes
        arguments = [f"--config={config(SHAPES[shape], folder)}", f"--workdir={folder / 'sweep'}", *flags]
        command(["isoflop", "sweep", *arguments], ISOFLOP_CACHE=cache(folder))
        return 1.0

    return run


def ours_processes(shape: str, folder: Path, processes: int) -> float:
    """`isoflop sweep` of one point after another, each a process with all cores."""
    for i in range(processes):
        seed, rate = divmod(i, 4)
        where = [f"--where=seed=={seed}", f"--where=peak_lr=={(rate + 1) * 1e-3:g}"]
        arguments = [f"--config={config(SHAPES[shape], folder)}", f"--workdir={folder / 'sweep'}", *where]
        command(["isoflop", "sweep", *arguments, "--workers=1"], ISOFLOP_CACHE=cache(folder))
    return processes / RUNS


def theirs(name: str, workers: int) -> Callable[[str, Path, int], float]:
    """All runs of a contender, one after another, in one process or in pinned single-threaded ones."""

    def run(shape: str, folder: Path, processes: int) -> float:
        del folder, processes
        cores = sorted(os.sched_getaffinity(0))
        job = ["benchmarks.sweep", "--loop", name, shape, str(RUNS // workers)]
        if workers == 1:
            command(job)
            return 1.0
        with ThreadPoolExecutor(workers) as pool:
            threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
            list(pool.map(lambda core: command(job, [core], **threads), cores[:workers]))
        return 1.0

    return run


def plain_processes(shape: str, folder: Path, processes: int) -> float:
    """A process a run of the plain linen step, as JAX codebases start them today."""
    del folder
    for _ in range(processes):
        command(["benchmarks.sweep", "--loop", "plain", shape, "1"])
    return processes / RUNS


CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
PLANS: dict[str, Callable[[str, Path, int], float]] = {
    "plain_processes": plain_processes,
    "ours_processes": ours_processes,
    "torch_sequence": theirs("torch_eager", 1),
    "torch_pinned": theirs("torch_eager", CORES),
    "ours_sequence": ours("--workers=1", "--pack=1"),
    "ours_packed": ours("--workers=1", f"--pack={RUNS}"),
    "ours_pinned": ours("--pack=1"),
    "ours_pinned_packed": ours(f"--pack={RUNS // CORES}"),
}


def loop(name: str, shape: str, runs: int) -> None:
    """Train `runs` runs of a contender, one after another."""
    for _ in range(runs):
        step = contenders.CONTENDERS[name](SHAPES[shape]).step
        for _ in range(STEPS):
            step().item()


def measured(plan: str, shape: str, processes: int) -> dict[str, Any]:
    """The seconds of a plan, whole and scaled to all runs."""
    folder = Path(tempfile.mkdtemp(prefix="sweep-"))
    try:
        began, busy = time.perf_counter(), os.times()
        share = PLANS[plan](shape, folder, processes)
        seconds, after = time.perf_counter() - began, os.times()
        cpu = after.children_user + after.children_system - busy.children_user - busy.children_system
        return {"seconds": seconds / share, "cpu_seconds": cpu / share, "runs": round(share * RUNS)}
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def summary(rounds: list[dict[str, dict[str, Any]]]) -> dict[str, Any]:
    """Medians by plan, and how many times as fast the pinned workers of ours are as each."""
    plans = {name for each in rounds for name in each}
    seconds = {p: [each[p]["seconds"] for each in rounds if p in each] for p in PLANS if p in plans}
    whole = [each for each in rounds if "ours_pinned" in each]
    ratios = {
        p: statistics.median(each[p]["seconds"] / each["ours_pinned"]["seconds"] for each in whole if p in each)
        for p in seconds
        if p != "ours_pinned" and any(p in each for each in whole)
    }
    return {
        "seconds": {p: statistics.median(values) for p, values in seconds.items()},
        "milliseconds_a_step": {p: 1e3 * statistics.median(values) / RUNS / STEPS for p, values in seconds.items()},
        "ours_pinned_times_as_fast_as": ratios,
    }


def main() -> None:
    """Parse the command line, measure what is not there yet, print."""
    if sys.argv[1:2] == ["--loop"]:
        return loop(sys.argv[2], sys.argv[3], int(sys.argv[4]))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--shapes", default=",".join(SHAPES))
    parser.add_argument("--plans", default=",".join(PLANS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--processes", type=int, default=3, help="runs made of the plans with a process a run")
    parser.add_argument("--out", type=Path, help="write the JSON to this file; go on with what is there")
    flags = parser.parse_args()
    by_shape: dict[str, Any] = {}
    if flags.out and flags.out.exists():
        by_shape = {shape: each["rounds"] for shape, each in json.loads(flags.out.read_text())["shapes"].items()}
    with tempfile.TemporaryDirectory() as folder:  # the text is prepared once, before any clock runs
        command(["isoflop", "prepare", f"--config={config(SHAPES['d32'], Path(folder))}"])
    for number in range(flags.rounds):
        for shape in flags.shapes.split(","):
            rounds = by_shape.setdefault(shape, [])
            rounds += [{}] * (number + 1 - len(rounds))
            for plan in flags.plans.split(","):
                if plan not in rounds[number]:
                    rounds[number] = rounds[number] | {plan: measured(plan, shape, flags.processes)}
                    print(f"{shape} {plan}: {rounds[number][plan]['seconds']:.1f} s", file=sys.stderr, flush=True)
                    _write(flags.out, by_shape)
    print(json.dumps(_result(by_shape), indent=1))
    return None


def _result(by_shape: dict[str, Any]) -> dict[str, Any]:
    shapes = {s: {"shape": vars(SHAPES[s]), **summary(rounds), "rounds": rounds} for s, rounds in by_shape.items()}
    return {"machine": _machine(), "runs": RUNS, "steps": STEPS, "shapes": shapes}


def _write(out: Path | None, by_shape: dict[str, Any]) -> None:
    if out:
        out.write_text(json.dumps(_result(by_shape), indent=1) + "\n")


if __name__ == "__main__":
    main()
