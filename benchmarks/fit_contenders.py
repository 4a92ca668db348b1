"""Point fit and 4,000 bootstraps of the 240 Chinchilla runs, by `laws` and by loops over scipy, for `benchmarks.fit`.

    python -m benchmarks.fit_contenders SIDE [--sample 60]

prints what one side found, and its CPU seconds where it extrapolates. The loops minimise the same summed Huber objective
of the log loss from Hoffmann et al.'s 4,500 starts, and then each resample from the optimum, with scipy's L-BFGS-B; a
sample of both is run and extrapolated. `ours` is what `laws` does: projection puts E, A and B where they belong for every
(alpha, beta), so a grid of 100 of these stands for the 4,500 starts. `every_start` polishes all 4,500 as they are, for
those who would rather not take projection's word for it.
"""

import argparse
import itertools
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

RESAMPLES = 4_000
DELTA = 1e-3
DROPPED = 5  # highest losses, as Besiroglu et al. leave them out


def published() -> Path:
    """The folder of golden tables."""
    default = Path(__file__).parents[2] / "shared" / "data" / "published"
    return Path(os.environ.get("ISOFLOP_PUBLISHED", default))


def table() -> Path:
    """The file of the Chinchilla runs."""
    return published() / "chinchilla_figure4.csv"


def runs() -> np.ndarray:
    """The 240 runs: a record array with params, tokens, flops and loss."""
    rows = np.genfromtxt(table(), delimiter=",", names=True)
    return rows[np.argsort(rows["loss"])][:-DROPPED]


def starts() -> np.ndarray:
    """Hoffmann et al.'s grid of (log A, log B, log E, alpha, beta), 4,500 points (arXiv 2203.15556, appendix D.3)."""
    logs, floors, exponents = np.arange(0.0, 30, 5), np.arange(-1, 1.5, 0.5), np.arange(0, 2.5, 0.5)
    return np.array(list(itertools.product(logs, logs, floors, exponents, exponents)))


def objective(
    point: np.ndarray, n: np.ndarray, d: np.ndarray, y: np.ndarray, weight: np.ndarray
) -> tuple[float, np.ndarray]:
    """Summed Huber loss of the log residuals, and its exact gradient.

    Args:
        point: log A, log B, log E, alpha, beta.
        n, d, y: log parameters, log tokens and log loss of the runs.
        weight: how often each run counts.
    """
    a, b, e, alpha, beta = point
    terms = np.stack([a - alpha * n, b - beta * d, np.full_like(n, e)])
    top = terms.max(axis=0)
    shares = np.exp(terms - top)
    total = shares.sum(axis=0)
    residual = top + np.log(total) - y
    size = np.abs(residual)
    value = np.sum(weight * np.where(size <= DELTA, 0.5 * residual**2, DELTA * (size - 0.5 * DELTA)))
    psi = weight * np.clip(residual, -DELTA, DELTA) * shares / total
    slope = psi.sum(axis=1)
    return value, np.array([*slope, -(psi[0] * n).sum(), -(psi[1] * d).sum()])


def loop(sample: int, exact: bool) -> dict[str, Any]:
    """L-BFGS-B over a sample of the starts and of the resamples; CPU seconds for all of them by extrapolation."""
    from scipy.optimize import minimize

    n, d, y = (np.log(runs()[name]) for name in ("params", "tokens", "loss"))
    options = {"maxiter": 15_000, "maxfun": 150_000, "ftol": 1e-15, "gtol": 1e-10}

    def solve(start, weight):
        function = objective if exact else lambda *args: objective(*args)[0]
        return minimize(function, start, args=(n, d, y, weight), jac=exact or None, method="L-BFGS-B", options=options)

    before, grid, rng = time.process_time(), starts(), np.random.default_rng(0)
    picked = grid[rng.choice(len(grid), sample, replace=False)]
    began = time.process_time()
    ends = [solve(start, np.ones(len(y))) for start in picked]
    point = (time.process_time() - began) / sample * len(grid)
    best = min(ends, key=lambda result: result.fun)
    began = time.process_time()
    for weight in rng.multinomial(len(y), np.full(len(y), 1 / len(y)), size=sample):
        solve(best.x, weight.astype(float))
    bootstrap = (time.process_time() - began) / sample * RESAMPLES
    values = np.array([result.fun for result in ends])
    return {
        "cpu_seconds": before + point + bootstrap,
        "cpu_seconds_starts": point,
        "cpu_seconds_bootstrap": bootstrap,
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

    loaded = laws.load(table(), n="params", d="tokens", drop_highest=DROPPED)
    grid = starts()
    grid[:, :3] = np.exp(grid[:, :3])
    optimum = estimate(find("chinchilla"), loaded, starts=grid if every_start else None)
    drawn = pairs_bootstrap(optimum, loaded, np.ones(len(loaded)), RESAMPLES)
    alpha, beta = drawn.params[:, 3], drawn.params[:, 4]
    return {
        "objective": optimum.value,
        "starts": optimum.starts,
        "share_at_best": optimum.at_best / optimum.starts,
        "resamples_converged": len(drawn.params) / RESAMPLES,
        "a_interval_95": [float(end) for end in interval(beta / (alpha + beta), 0.95)],
    }


SIDES = {
    "ours": lambda sample: ours(every_start=False),
    "every_start": lambda sample: ours(every_start=True),
    "scipy_exact": lambda sample: loop(sample, exact=True),
    "scipy_differences": lambda sample: loop(sample, exact=False),
}


def main() -> int:
    """Run one side and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("side", choices=SIDES)
    parser.add_argument("--sample", type=int, default=60, help="starts and resamples that a loop runs")
    options = parser.parse_args()
    print(json.dumps(SIDES[options.side](options.sample)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
