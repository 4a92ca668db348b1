"""One GPU, ten minutes: our train steps beside PyTorch's, packs beside sequences, compiled memory beside measured; JSON.

    python -m benchmarks.gpu [--minutes 10] [--parts decoder-124m,...] [--rounds 7] [--tiny] [--out FILE]

Every contender is a process of its own; those of a part live at once and take turns, so that what else the machine does
hits all alike. A part ends when its share of the minutes is over: what is not ready by then, or has had fewer than five
turns, is a row that says so. Times are medians over the turns, ratios medians over the ratios within a round.
"""

import argparse
import contextlib
import importlib.util
import json
import os
import platform
import select
import statistics
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
# Of the minutes, in this order; what a part leaves over goes to those after it.
SHARES = {"decoder-124m": 0.25, "decoder-1.3b": 0.37, "vit-b16": 0.22, "packs": 0.16}
LEAST_ROUNDS = 5
TURN_SECONDS = 3.0  # of one contender, at most
RESERVE = 5.0  # seconds of the minutes for starting and ending processes


def work(part: str, contender: str, tiny: bool) -> None:
    """A worker: builds its step, then runs as many steps as each line of standard input says."""
    from benchmarks import gpu_contenders

    case = (gpu_contenders.TINY if tiny else gpu_contenders.CASES)[part]
    built = gpu_contenders.CONTENDERS[part][contender](case)
    losses = [gpu_contenders.steps(built, 1) for _ in range(3)]
    shape = {"unit": case.unit, "examples": case.examples, "flops": case.flops}
    _say({"compile_seconds": built.compile_seconds, "compiled_bytes": built.compiled_bytes, "losses": losses, **shape})
    for line in sys.stdin:
        began = time.perf_counter()
        gpu_contenders.steps(built, int(line))
        _say({"seconds": time.perf_counter() - began, **gpu_contenders.device(contender)})


def _say(message: dict[str, Any]) -> None:
    print(json.dumps(message), file=sys.__stdout__, flush=True)


class Worker:
    """The parent's end of a worker.

    Attributes:
      ready: what it said once its step was built; None before.
      error: why it takes no turns; None: it does.
      seconds: of a step, in each turn.
    """

    def __init__(self, command: list[str]):
        environment = os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}  # several share the device
        self._told = tempfile.TemporaryFile()  # noqa: SIM115 - its standard error: a pipe that nobody reads would fill
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._told, env=environment, cwd=ROOT
        )
        self._unread = b""
        self.ready: dict[str, Any] | None = None
        self.error: str | None = None
        self.last: dict[str, Any] = {}
        self.count, self.seconds = 1, []

    def start(self, deadline: float) -> None:
        """Wait until its step is built."""
        self.ready = self._hear(deadline, "not ready")

    def turn(self, deadline: float, keep: bool) -> None:
        """Time one turn."""
        if self.error is not None:
            return
        assert self._process.stdin
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(f"{self.count}\n".encode())
            self._process.stdin.flush()
        heard = self._hear(deadline, "a turn was not over")
        if heard is not None:
            self.last = heard
            if keep:
                self.seconds.append(heard["seconds"] / self.count)

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()
        self._told.close()

    def _hear(self, deadline: float, late: str) -> dict[str, Any] | None:
        assert self._process.stdout
        pipe = self._process.stdout.fileno()
        while b"\n" not in self._unread:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([pipe], [], [], left)[0]:
                self.error = f"{late} when the time of this part was over"
                return None
            content = os.read(pipe, 1 << 16)
            if not content:
                self.error = self._last_words()
                return None
            self._unread += content
        line, _, self._unread = self._unread.partition(b"\n")
        return json.loads(line)

    def _last_words(self) -> str:
        self._process.wait()
        self._told.seek(0)
        lines = [
            line
            for line in self._told.read().decode(errors="replace").splitlines()
            if line and not line.startswith(" ")
        ]
        return lines[-1][:500] if lines else f"ended with {self._process.returncode}"


def measure(commands: dict[str, list[str]], rounds: int, deadline: float) -> dict[str, Any]:
    """The rows of contenders, and the ratios between them.

    Args:
      commands: that start a worker, by contender; an empty one stands for PyTorch that is not installed.
      rounds: turns of each, at most.
      deadline: by the monotonic clock.
    """
    workers = {name: Worker(command) for name, command in commands.items() if command}
    try:
        for worker in workers.values():
            worker.start(deadline)
        for keep in (False, True):  # the first turn still warms up, the second says how long a step takes
            for worker in workers.values():
                worker.turn(deadline, keep)
        left = deadline - time.monotonic()
        share = min(TURN_SECONDS, 0.8 * left / (max(len(workers), 1) * rounds))
        for worker in workers.values():
            worker.count = max(1, round(share / worker.seconds.pop())) if worker.seconds else 1
        for _ in range(rounds):
            for worker in workers.values():
                worker.turn(deadline, True)
    finally:
        for worker in workers.values():
            worker.close()
    rows = {name: _row(workers[name]) if name in workers else {"error": "torch not installed"} for name in commands}
    return {"contenders": rows, "ratios": _ratios(workers)}


def _row(worker: Worker) -> dict[str, Any]:
    """What is known of a contender; its times only of enough turns."""
    ready = worker.ready or {}
    row = {name: ready.get(name) for name in ("compile_seconds", "compiled_bytes", "losses")}
    row |= {
        "device": worker.last.get("device"),
        "peak_bytes": worker.last.get("peak_bytes"),
        "rounds": len(worker.seconds),
    }
    if len(worker.seconds) < LEAST_ROUNDS:
        return row | {"error": worker.error or f"{len(worker.seconds)} of {LEAST_ROUNDS} turns"}
    seconds, peak = statistics.median(worker.seconds), worker.last["peak_flops"]
    return row | {
        "milliseconds": 1e3 * seconds,
        "milliseconds_range": [1e3 * min(worker.seconds), 1e3 * max(worker.seconds)],
        f"{ready['unit']}_per_second": ready["examples"] / seconds,
        "mfu": None if peak is None else ready["flops"] / seconds / peak,
    }


def _ratios(workers: dict[str, Worker]) -> dict[str, float]:
    """How many times as long another contender takes as the first: the median of the ratios within a round."""
    first, *others = workers or ("",)
    pairs = {f"{name} over {first}": (workers[name].seconds, workers[first].seconds) for name in others}
    return {
        name: statistics.median(theirs / ours for theirs, ours in zip(*both, strict=False))
        for name, both in pairs.items()
        if min(map(len, both)) >= LEAST_ROUNDS
    }


def commands_of(part: str, tiny: bool) -> dict[str, list[str]]:
    """What starts the workers of a part, by contender."""
    from benchmarks.gpu_contenders import CONTENDERS

    start = [sys.executable, "-m", "benchmarks.gpu", "--worker", part]
    absent = importlib.util.find_spec("torch") is None
    return {
        name: [] if name == "torch" and absent else [*start, name, *(["--tiny"] if tiny else [])]
        for name in CONTENDERS[part]
    }


def _versions() -> dict[str, str | None]:
    found: dict[str, str | None] = dict.fromkeys(("jax", "jaxlib", "flax", "optax", "torch"))
    for name in found:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def main() -> None:
    """Parse the command line, measure part after part, write after each."""
    if sys.argv[1:2] == ["--worker"]:
        return work(*sys.argv[2:4], tiny="--tiny" in sys.argv[4:])
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--minutes", type=float, default=10.0, help="it never runs for longer")
    parser.add_argument("--parts", default=",".join(SHARES))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--tiny", action="store_true", help="tiny models, to try the benchmark on a CPU")
    parser.add_argument("--out", type=Path, help="also write the JSON to this file")
    flags = parser.parse_args()
    parts = flags.parts.split(",")
    if unknown := [part for part in parts if part not in SHARES]:
        parser.error(f"--parts: {unknown[0]!r} is not one of {', '.join(SHARES)}")
    began, seconds = time.monotonic(), 60 * flags.minutes - RESERVE
    machine = {"cpus": len(os.sched_getaffinity(0)), "python": platform.python_version(), "versions": _versions()}
    results: dict[str, Any] = {"machine": machine, "minutes": flags.minutes, "tiny": flags.tiny, "parts": {}}
    used = 0.0
    for part in parts:
        used += SHARES[part] / sum(SHARES[each] for each in parts)
        results["parts"][part] = measure(commands_of(part, flags.tiny), flags.rounds, began + used * seconds)
        results["seconds"] = time.monotonic() - began
        if flags.out:
            flags.out.write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results, indent=1))
    return None


if __name__ == "__main__":
    main()
