"""Fitting speed: point fit and 4,000 bootstraps of the 240 Chinchilla runs, against a loop on scipy, in CPU seconds.

    python -m benchmarks.fit --out benchmarks/results/fit.json

Every contender is a process of its own and its whole CPU time counts: imports, compilation, all threads. The reference
minimises the same summed Huber objective of the log loss from Hoffmann et al.'s 4,500 starts, and then each resample
from the optimum, with scipy's L-BFGS-B; a sample of both is run and extrapolated. `ours` is what `laws` does: projection
puts E, A and B where they belong for every (alpha, beta), so a grid of 100 of these stands for the 4,500 starts.
`every_start` polishes all 4,500 starts as they are, for those who would rather not take projection's word for it.
"""

import argparse
import itertools
import json
import os
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

RESAMPLES = 4_000
PUBLISHED_SECONDS = 460.0  # CPU seconds of the reference scripts, starts and bootstraps, on two cores
DELTA = 1e-3
SIDES = ("ours", "every_start", "scipy_exact", "scipy_differences")


def published() -> Path:
    """The folder of golden tables."""
    default = Path(__file__).parents[2] / "shared" / "data" / "published"
    return Path(os.environ.get("ISOFLOP_PUBLISHED", default))


def starts() -> np.ndarray:
    """Hoffmann et al.'s grid of (log A, log B, log E, alpha, beta), 4,500 points (arXiv 2203.15556, appendix D.3)."""
    logs, floors, exponents = np.arange(0.0, 30, 5), np.arange(-1, 1.5, 0.5), np.arange(0, 2.5, 0.5)
    return np.array(list(itertools.product(logs, logs, floors, exponents, exponents)))


def runs() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Log parameters, log tokens and log loss of the 240 runs."""
    table = np.genfromtxt(published() / "chinchilla_figure4.csv", delimiter=",", names=True)
    table = table[np.argsort(table["loss"])][:-5]
    return np.log(table["params"]), np.log(table["tokens"]), np.log(table["loss"])


def objective(point, n, d, y, weight):
    """Summed Huber loss of the log residuals, and its exact gradient."""
    a, b, e, alpha, beta = point
    terms = np.stack([a - alpha * n, b - beta * d, np.full_like(n, e)])
    top = terms.max(axis=0)
    shares = np.exp(terms - top)
    total = shares.sum(axis=0)
    residual = top + np.log(total) - y
    size = np.abs(residual)
    value = np.sum(weight * np.where(size <= DELTA, 0.5 * residual**2, DELTA * (size - 0.5 * DELTA)))
    pull = weight * np.clip(residual, -DELTA, DELTA) * shares / total
    slope = pull.sum(axis=1)
    return value, np.array([*slope, -(pull[0] * n).sum(), -(pull[1] * d).sum()])


def reference(sample: int, exact: bool) -> dict[str, Any]:
    """L-BFGS-B over a sample of the starts and of the resamples; CPU seconds for all of them by extrapolation."""
    from scipy.optimize import minimize

    n, d, y = runs()
    options = {"maxiter": 15_000, "maxfun": 150_000, "ftol": 1e-15, "gtol": 1e-10}

    def solve(start, weight):
        function = objective if exact else lambda *args: objective(*args)[0]
        return minimize(function, start, args=(n, d, y, weight), jac=exact or None, method="L-BFGS-B", options=options)

    before, grid, rng = time.process_time(), starts(), np.random.default_rng(0)
    picked = grid[rng.choice(len(grid), sample, replace=False)]
    began = time.process_time()
    found = [solve(start, np.ones(len(y))) for start in picked]
    point = (time.process_time() - began) / sample * len(grid)
    best = min(found, key=lambda result: result.fun)
    began = time.process_time()
    for weight in rng.multinomial(len(y), np.full(len(y), 1 / len(y)), size=sample):
        solve(best.x, weight.astype(float))
    bootstrap_seconds = (time.process_time() - began) / sample * RESAMPLES
    values = np.array([result.fun for result in found])
    return {
        "cpu_seconds": before + point + bootstrap_seconds,
        "cpu_seconds_starts": point,
        "cpu_seconds_bootstrap": bootstrap_seconds,
        "extrapolated_from": {"starts": sample, "of": len(grid), "resamples": sample, "of_resamples": RESAMPLES},
        "objective": float(best.fun),
        "share_at_best": float(np.mean(values <= values.min() * (1 + 1e-6))),
        "gradients": "exact" if exact else "finite differences",
    }


def ours(every_start: bool) -> dict[str, Any]:
    """The same work by `laws`."""
    import laws
    from laws.estimation.estimate import estimate
    from laws.inference.noise import interval
    from laws.inference.resampling import pairs_bootstrap
    from laws.model.forms import find

    table = laws.load(published() / "chinchilla_figure4.csv", n="params", d="tokens", drop_highest=5)
    grid = starts()
    grid[:, :3] = np.exp(grid[:, :3])
    optimum = estimate(find("chinchilla"), table, starts=grid if every_start else None)
    drawn = pairs_bootstrap(optimum, table, np.ones(len(table)), RESAMPLES)
    alpha, beta = drawn.params[:, 3], drawn.params[:, 4]
    return {
        "objective": optimum.value,
        "starts": optimum.starts,
        "share_at_best": optimum.at_best / optimum.starts,
        "resamples_converged": len(drawn.params) / RESAMPLES,
        "a_interval_95": [float(end) for end in interval(beta / (alpha + beta), 0.95)],
    }


def contender(side: str, sample: int) -> dict[str, Any]:
    """Run one side in a process of its own and take its whole CPU time, unless it extrapolated."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.fit", "--side", side, "--sample", str(sample)],
        capture_output=True, text=True, check=True, env=environment,
    )  # fmt: skip
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    found = json.loads(done.stdout.splitlines()[-1])
    return {"cpu_seconds": spent, "wall_seconds": time.perf_counter() - began} | found


def main() -> int:
    """Measure, print JSON, and write it if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--sample", type=int, default=60, help="starts and resamples that the reference runs")
    parser.add_argument("--sides", nargs="*", default=list(SIDES), choices=SIDES)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.side:
        mine = given.side in ("ours", "every_start")
        found = ours(given.side == "every_start") if mine else reference(given.sample, given.side == "scipy_exact")
        print(json.dumps(found))
        return 0
    if not published().is_dir():
        print(f"golden tables are absent: {published()} (ISOFLOP_PUBLISHED)", file=sys.stderr)
        return 2
    found = {side: contender(side, given.sample) for side in given.sides}
    spent = found.get("ours", {}).get("cpu_seconds")
    times = {side: found[side]["cpu_seconds"] / spent for side in found if side.startswith("scipy")} if spent else {}
    report = {
        "task": f"point fit and {RESAMPLES} bootstraps of the 240 Chinchilla runs, whole process",
        "contenders": found,
        "times_faster": times | ({"published_scripts": PUBLISHED_SECONDS / spent} if spent else {}),
        "published_scripts_cpu_seconds": PUBLISHED_SECONDS,
        "machine": {"cores": os.cpu_count(), "processor": platform.machine(), "python": platform.python_version()},
        "load": os.getloadavg()[0],
    }
    text = json.dumps(report, indent=1)
    print(text)
    if given.out:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
