"""Speed of a train step on this machine, ours beside plain linen and PyTorch; prints JSON.

    python benchmarks/train_step.py [--shapes small,medium,large] [--contenders ours,...] [--rounds 7] [--out FILE]

Every contender is a process of its own, once with the machine's allocator and once with `training.allocator`; all live
at once, and take turns, so that what else the machine does hits all alike. Times are medians over the turns; CPU time
says whether the machine was busy with something else: it is then less than the wall time times the cores.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT)]

from benchmarks import contenders, image_contenders  # noqa: E402

# By shape: what is to be built, and by whom.
SHAPES: dict[str, Any] = contenders.SHAPES | image_contenders.SHAPES
CONTENDERS = dict.fromkeys(contenders.SHAPES, contenders.CONTENDERS) | dict.fromkeys(
    image_contenders.SHAPES, image_contenders.CONTENDERS
)
NAMES = tuple(name for name in contenders.CONTENDERS if name != "matmul")
ALLOCATORS = ("default", "kept")
TURN_SECONDS = 2.0


def work(contender: str, shape: str, allocator: str) -> None:
    """A worker: builds its step, then times as many steps as each line of standard input says."""
    if allocator == "kept":
        from training.allocator import keep_freed_memory

        keep_freed_memory()
    step, compile_seconds, _ = CONTENDERS[shape][contender](SHAPES[shape])
    losses = [step().item() for _ in range(3)]
    _say({"compile_seconds": compile_seconds, "losses": losses})
    for line in sys.stdin:
        started, cpu_started = time.perf_counter(), time.process_time()
        for _ in range(int(line)):
            step().item()
        seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_started
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        _say({"seconds": seconds, "cpu_seconds": cpu_seconds, "peak_bytes": peak})


def _say(message: dict[str, Any]) -> None:
    print(json.dumps(message), file=sys.__stdout__, flush=True)


class Worker:
    """The parent's end of a worker."""

    def __init__(self, contender: str, shape: str, allocator: str):
        command = [sys.executable, __file__, "--worker", contender, shape, allocator]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | {"JAX_PLATFORMS": "cpu"}
        )
        self.ready = self._hear()
        self.steps = 1
        self.seconds: list[float] = []
        self.cpu_seconds: list[float] = []
        self.peak_bytes = 0

    def turn(self, keep: bool = True) -> None:
        """Time one turn."""
        print(self.steps, file=self._process.stdin, flush=True)
        heard = self._hear()
        self.peak_bytes = heard["peak_bytes"]
        if keep:
            self.seconds.append(heard["seconds"] / self.steps)
            self.cpu_seconds.append(heard["cpu_seconds"] / self.steps)
        else:
            self.steps = max(1, round(TURN_SECONDS * self.steps / heard["seconds"]))

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()

    def _hear(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"benchmark: {' '.join(self._process.args)} ended early")  # type: ignore[arg-type]
        return json.loads(line)


def measure(shape: str, names: list[str], rounds: int) -> dict[str, Any]:
    """All contenders on one shape, interleaved."""
    pairs = [(name, allocator) for name in names for allocator in ALLOCATORS] + [("matmul", "kept")]
    workers = {pair: Worker(pair[0], shape, pair[1]) for pair in pairs}
    for keep in [False] + [True] * rounds:
        for worker in workers.values():
            worker.turn(keep)
    for worker in workers.values():
        worker.close()
    peak = 2 * 4096**3 / min(workers.pop(("matmul", "kept")).seconds)
    rows = {f"{name}/{allocator}": _row(SHAPES[shape], worker, peak) for (name, allocator), worker in workers.items()}
    return {"shape": vars(SHAPES[shape]), "matmul_peak_flops": peak, "contenders": rows, "ratios": _ratios(workers)}


def _row(shape: Any, worker: Worker, peak: float) -> dict[str, Any]:
    seconds = statistics.median(worker.seconds)
    return {
        "milliseconds": 1e3 * seconds,
        "milliseconds_range": [1e3 * min(worker.seconds), 1e3 * max(worker.seconds)],
        "cpu_milliseconds": 1e3 * statistics.median(worker.cpu_seconds),
        f"{shape.unit}_per_second": shape.examples / seconds,
        "compile_seconds": worker.ready["compile_seconds"],
        "peak_bytes": worker.peak_bytes,
        "share_of_matmul_peak": shape.flops / seconds / peak,
        "losses": worker.ready["losses"],
    }


def _ratios(workers: dict[tuple[str, str], Worker]) -> dict[str, float]:
    """How many times faster ours is: the median over the rounds of the ratio within a round, which neighbours share."""
    ratios = {}
    for (name, allocator), worker in workers.items():
        for our_allocator in ALLOCATORS:
            mine = workers.get(("ours", our_allocator))
            if mine is not None and name != "ours":
                within = [theirs / us for theirs, us in zip(worker.seconds, mine.seconds, strict=True)]
                ratios[f"ours/{our_allocator} over {name}/{allocator}"] = statistics.median(within)
    return ratios


def main() -> None:
    """Parse the command line, measure, print."""
    if sys.argv[1:2] == ["--worker"]:
        return work(*sys.argv[2:])
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--shapes", default=",".join(SHAPES))
    parser.add_argument("--contenders", default=",".join(NAMES))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, help="also write the JSON to this file")
    flags = parser.parse_args()
    results = {shape: measure(shape, flags.contenders.split(","), flags.rounds) for shape in flags.shapes.split(",")}
    text = json.dumps({"machine": _machine(), "rounds": flags.rounds, "results": results}, indent=1)
    print(text)
    if flags.out:
        flags.out.write_text(text + "\n")
    return None


def _machine() -> dict[str, Any]:
    from importlib import metadata

    versions = {}
    for name in ("jax", "jaxlib", "flax", "optax", "torch"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return {"cpus": len(os.sched_getaffinity(0)), "python": platform.python_version(), "versions": versions}


if __name__ == "__main__":
    main()
