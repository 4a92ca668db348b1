"""How large a sweep may be: planning, collection and status of 10,000 simulated runs with 1,000 lines of metrics each.

    python -m benchmarks.reach --out benchmarks/results/reach.json

Nothing is trained: the records and metrics are drawn. Every stage is a command in a process of its own, and the CPU time
of the process and of those that it starts counts, beside the wall clock: on a machine with other work only the former can
be compared. `peak_bytes` is the largest sum of the resident memory of all these processes, looked at ten times a second;
`largest_process_bytes` is the kernel's own mark for the largest of them.
"""

import argparse
import contextlib
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

RUNS, LINES, LATER = 10_000, 1_000, 10
BATCH, LENGTH = 8, 128
CONFIG = '''"""Language models of 20 widths and 10 durations: python -m isoflop plan --config=THIS:RUNS."""
from ml_collections import ConfigDict
from sweeps.design import axis, product
def get_config(arg=""):
    runs = int(arg)
    widths, ratios = range(16, 176, 8), [20.0 * 1.2 ** i for i in range(10)]
    grid = product(axis("model.width", widths), axis("duration.tokens_per_param", ratios))
    design = product(grid, axis("seed", range(-(-runs // 200))))[:runs]
    base = {"task": "lm", "batch_size": 8, "model": {"depth": 2, "heads": 2}, "data": {"corpus": "stdlib", "seq_len": 128}}
    return ConfigDict({"name": "reach", "base": base, "design": design})
'''


def simulate(path: Path, runs: int, lines: int, done: int | None = None) -> list[str]:
    """Write a sweep directory whose first `done` runs (by default all) have ended; returns the ids of all runs."""
    points = {}
    for i in range(runs):
        size, seed = 20_000 * (1 + i % 50), i // 50
        steps = 10 * lines
        overrides = {"model.size": float(size), "seed": seed, "duration.steps": steps}
        flops = 6.0 * size * steps * BATCH * LENGTH
        point = {"base": "0" * 12, "overrides": overrides, "labels": {"rung": i % 50}, "compile_key": f"{i % 50:012x}"}
        run_id = hashlib.sha256(f"{size} {seed}".encode()).hexdigest()[:12]
        points[run_id] = point | {"flops": flops, "params": size, "steps": steps}
    content = {"format": 2, "name": "reach", "bases": {"0" * 12: {"task": "lm"}}, "points": points}
    path.mkdir(parents=True)
    (path / "sweep.json").write_text(json.dumps(content, indent=1))
    ids = list(points)
    drawn = [metrics(lines, seed) for seed in range(min(runs, 200))]
    for i, run_id in enumerate(ids[:done]):
        finish(path, run_id, drawn[i % len(drawn)])
    return ids


def metrics(lines: int, seed: int, attempt: int = 0, first: int = 1) -> bytes:
    """Lines of one attempt that begins at the logged step `first`."""
    rng = np.random.default_rng(seed)
    losses, norms = 2 + rng.random(lines), rng.random(lines)
    rates, seconds = 1e-3 * rng.random(lines), np.cumsum(rng.random(lines))
    lines_of_metrics = [
        {
            "step": 10 * (first + i),
            "attempt": attempt,
            "grad_norm": norms[i],
            "loss": losses[i],
            "learning_rate": rates[i],
            "tokens": 10 * (first + i) * BATCH * LENGTH,
            "seconds": seconds[i],
        }
        for i in range(lines)
    ]
    return "".join(json.dumps(line) + "\n" for line in lines_of_metrics).encode()


def finish(path: Path, run_id: str, lines: bytes, **values: Any) -> None:
    """Write the files of a run that has ended."""
    run = path / "runs" / run_id
    run.mkdir(parents=True, exist_ok=True)
    (run / "config.json").write_text("{}\n")
    (run / "metrics.jsonl").write_bytes(lines)
    drawn = int(run_id, 16) / 16**12
    record: dict[str, Any] = {"run_id": run_id, "task": "lm", "family": "decoder", "status": "completed"}
    record |= {
        "seed": 0,
        "loss": 2 + drawn,
        "loss_sem": 0.01,
        "train_loss": 1.9 + drawn,
        "steps": lines.count(b"\n") * 10,
    }
    record |= {f"measure_{i}": drawn / (i + 1) for i in range(60)}  # as many columns as real records have
    record |= {"wall_seconds": 100 * drawn, "ended_at": 1.7e9 + 1e5 * drawn, "versions": {"jax": "0", "flax": "0"}}
    (run / "result.json").write_text(json.dumps(record | values, indent=1) + "\n")


def measured(command: list[str]) -> dict[str, Any]:
    """Run a command, and take the time and the memory of it and of what it starts."""
    with tempfile.TemporaryFile() as errors:
        began = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors)
        peak = [0]
        watcher = threading.Thread(target=_watch, args=(process.pid, peak), daemon=True)
        watcher.start()
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        watcher.join()
        errors.seek(0)
        if process.returncode:
            raise RuntimeError(f"{' '.join(command)}: {errors.read().decode(errors='replace')[-2000:]}")
    return {
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 2),
        "user_seconds": round(usage.ru_utime, 2),
        "system_seconds": round(usage.ru_stime, 2),
        "wall_seconds": round(wall, 2),
        "peak_bytes": peak[0],
        "largest_process_bytes": usage.ru_maxrss * 1024,
    }


def _watch(pid: int, peak: list[int]) -> None:
    while (resident := sum(_resident(one) for one in _family(pid))) > 0:
        peak[0] = max(peak[0], resident)
        time.sleep(0.1)


def _family(pid: int) -> list[int]:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return [pid]
    return [pid, *(one for child in children for one in _family(int(child)))]


def _resident(pid: int) -> int:
    with contextlib.suppress(OSError, IndexError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


def stages(folder: Path, runs: int, lines: int) -> dict[str, dict[str, Any]]:
    """Every stage in turn, on a sweep that is made in `folder`."""
    isoflop = [sys.executable, "-m", "isoflop"]
    config, sweep = folder / "ladder.py", folder / "sweep"
    config.write_text(CONFIG)
    later = min(LATER, runs)
    plan = [*isoflop, "plan", f"--config={config}:{runs}", "--memory=false", "--flops_per_second=1e9"]
    timings = {"plan": measured(plan), "plan_json": measured([*plan, "--json"])}
    began = time.perf_counter()
    ids = simulate(sweep, runs, lines, runs - later)
    simulated = {"wall_seconds": round(time.perf_counter() - began, 2)}
    simulated["bytes"] = sum(file.stat().st_size for file in sweep.rglob("*") if file.is_file())
    timings["simulate"] = simulated
    collect, status = [*isoflop, "collect", str(sweep)], [*isoflop, "status", str(sweep)]
    timings["status_before_any_collection"] = measured(status)
    timings["collect_first"] = measured(collect)
    timings["collect_again"] = measured(collect)
    for run_id in ids[runs - later :]:
        finish(sweep, run_id, metrics(lines, 99))
    timings[f"collect_after_{later}_runs"] = measured(collect)
    timings["status"] = measured(status)
    timings["status_json"] = measured([*status, "--json"])
    timings["status_watch"] = measured([*status, "--watch"])  # nothing is left to run: one look
    tables = {name: (sweep / name).stat().st_size for name in ("runs.parquet", "curves.parquet", "collected.parquet")}
    timings["tables"] = {f"{name}_bytes": size for name, size in tables.items()}
    return timings


def main() -> int:
    """Measure, print JSON, and write it if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--lines", type=int, default=LINES)
    parser.add_argument("--folder", type=Path, help="where the sweep is made; a temporary folder by default")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(dir=options.folder))
    load = os.getloadavg()[0]
    try:
        timings = stages(folder, options.runs, options.lines)
    finally:
        shutil.rmtree(folder)
    report = {
        "task": f"a simulated sweep of {options.runs:,} runs with {options.lines:,} lines of metrics each",
        "stages": timings,
        "machine": {"cores": os.cpu_count(), "processor": platform.machine(), "python": platform.python_version()},
        "load": [round(load, 2), round(os.getloadavg()[0], 2)],
    }
    text = json.dumps(report, indent=1)
    print(text)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
