"""Bias, scatter and coverage of approach 2 by the curve through each budget's losses: cubic, Akima, parabola.

    python -m benchmarks.approach2 --out benchmarks/results/approach2.json

Sweeps of known laws without noise give the bias of the exponent of N*(C) and of N* at 1e24 FLOPs; the same sweeps with
noise their scatter and the coverage of the 95% intervals. ``plain`` is the parabola in the loss itself through all
sizes, as approach 2 is often done (arXiv 2603.22339). On public iso-FLOP tables the exponent is compared with that of
the coupled surface fitted to the same runs.
"""

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

import laws
from laws.approaches.isoflop_profiles import isoflop_profiles
from laws.approaches.loss_profiles import METHODS
from laws.base.errors import InputError
from laws.data.table import Table

COMPUTE = np.geomspace(1e19, 1e22, 7)  # FLOPs of the budgets
TARGET = 1e24
AROUND = np.geomspace(1 / 4, 4, 7)  # sizes over the best
NOISE = 0.003  # of log loss
DRAWS = 200
PLAIN = "plain"
Truth = dict[str, float]
NEARLY_EQUAL: Truth = {"A": 482.0, "B": 2085.0, "E": 1.8172, "alpha": 0.332, "beta": 0.372}
TRUTHS = {
    "nearly equal exponents": NEARLY_EQUAL,
    "steep in size": {"A": 2000.0, "B": 411.0, "E": 1.69, "alpha": 0.45, "beta": 0.28},
    "steep in data": {"A": 100.0, "B": 4110.0, "E": 1.69, "alpha": 0.25, "beta": 0.4},
}


def exponent(truth: Truth) -> float:
    """Exponent of N*(C)."""
    return truth["beta"] / (truth["alpha"] + truth["beta"])


def best_size(truth: Truth, compute: Any) -> Any:
    """N*(C), the parameters of the compute-optimal model."""
    total = truth["alpha"] + truth["beta"]
    ratio = truth["alpha"] * truth["A"] / (truth["beta"] * truth["B"])
    return ratio ** (1 / total) * (compute / 6) ** exponent(truth)


@dataclass(frozen=True)
class Design:
    """Sizes at every budget.

    Args:
        label: for people.
        sizes: as a function of the FLOPs of the budget and its best size.
    """

    label: str
    sizes: Callable[..., Float[np.ndarray, " sizes"]]

    def frame(self, truth: Truth, noise: float = 0.0, seed: int = 0) -> pd.DataFrame:
        """Runs of the law.

        Args:
            truth: constants of the law.
            noise: standard deviation of log loss.
            seed: of the noise.
        """
        rows = [(c, n) for c in COMPUTE for n in self.sizes(c, best_size(truth, c))]
        c, n = np.array(rows).T
        d = c / (6 * n)
        loss = truth["E"] + truth["A"] / n ** truth["alpha"] + truth["B"] / d ** truth["beta"]
        error = noise * np.random.default_rng(seed).standard_normal(len(n))
        return pd.DataFrame({"n": n, "d": d, "c": c, "loss": loss * np.exp(error)})

    def table(self, truth: Truth, noise: float = 0.0, seed: int = 0) -> Table:
        """The same as a checked table."""
        return laws.load(self.frame(truth, noise, seed), n="n", d="d", c="c")


BIAS_DESIGNS = (
    Design("the same sizes at every budget", lambda c, best: np.geomspace(*_ends(3.0), 14)),
    Design("sizes within 4 times the best", lambda c, best: best * AROUND),
    Design("within 32 times", lambda c, best: best * np.geomspace(1 / 32, 32, 11)),
    Design("within 5 times twice the best", lambda c, best: 2 * best * np.geomspace(1 / 5, 5, 7)),
)


def _ends(margin: float) -> tuple[float, float]:
    """Smallest and largest size of a sweep with the same sizes at every budget."""
    return best_size(NEARLY_EQUAL, COMPUTE[0]) / margin, best_size(NEARLY_EQUAL, COMPUTE[-1]) * margin


def plain_parabola(table: Table) -> tuple[float, float]:
    """Exponent of N*(C) and log G, by parabolas in the loss itself through all sizes of every budget."""
    log_c, log_n = [], []
    for c in COMPUTE:
        rows = np.isclose(table.values["c"], c)
        square, slope, _ = np.polyfit(np.log(table.values["n"][rows]), table.loss[rows], 2)
        log_c.append(np.log(c))
        log_n.append(-slope / (2 * square))
    a, log_g = np.polyfit(log_c, log_n, 1)
    return float(a), float(log_g)


def bias(design: Design, truth: Truth, method: str) -> tuple[float, float]:
    """What approach 2 errs by without any noise: of the exponent, and of log N* at ``TARGET``.

    Args:
        design: of the sweep.
        truth: constants of its law.
        method: one of ``METHODS``, or ``plain``.
    """
    table = design.table(truth)
    if method == PLAIN:
        a, log_g = plain_parabola(table)
    else:
        fit = isoflop_profiles(table, method=method, noise=1e-6, draws=20)
        a, log_g = fit.a, fit.log_g
    return a - exponent(truth), float(log_g + a * np.log(TARGET) - np.log(best_size(truth, TARGET)))


def scatter(design: Design, truth: Truth, method: str, sweeps: int) -> dict[str, float]:
    """Errors of the exponent over noisy sweeps, and coverage of its 95% interval.

    Args:
        design: of the sweeps.
        truth: constants of their law.
        method: one of ``METHODS``.
        sweeps: how many.
    """
    errors, inside, widths = [], [], []
    for seed in range(sweeps):
        try:
            fit = isoflop_profiles(design.table(truth, NOISE, seed), method=method, draws=DRAWS)
        except InputError:
            continue
        low, high = fit.a_interval
        errors.append(fit.a - exponent(truth))
        inside.append(low <= exponent(truth) <= high)
        widths.append(high - low)
    return {
        "sweeps": len(errors),
        "mean_error": float(np.mean(errors)),
        "rms_error": float(np.sqrt(np.mean(np.square(errors)))),
        "coverage": float(np.mean(inside)),
        "width": float(np.median(widths)),
    }


PUBLISHED = (  # file, column of compute, column that names the experiment, rows that are kept
    ("isoflop_collection.csv", "budget", "experiment", " and outlier == False"),
    ("isoflop_refinedweb.csv", "flops", "setting", ""),
)


def published(folder: Path) -> dict[str, dict[str, float]]:
    """Exponents of public iso-FLOP tables by approach 2, and by the coupled surface fitted to the same runs."""
    out = {}
    for name, compute, key, kept in PUBLISHED:
        for experiment in pd.read_csv(folder / name)[key].unique():
            where = f"{key} == '{experiment}'{kept}"
            table = laws.load(folder / name, n="params", d="tokens", c=compute, where=where)
            exponents = {method: isoflop_profiles(table, method=method).a for method in METHODS}
            out[str(experiment)] = exponents | {"surface": float(table.fit("coupled", resamples=0).derived.value["a"])}
    return out


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/approach2.json"))
    parser.add_argument("--sweeps", type=int, default=300, help="with noise, of every law and design")
    parser.add_argument("--published", type=Path, default=Path("../shared/data/published"))
    options = parser.parse_args()
    report: dict[str, Any] = {"bias": {}, "scatter": {}}
    for law, truth in TRUTHS.items():
        for design in BIAS_DESIGNS:
            label = f"{law}, {design.label}"
            biases = {method: bias(design, truth, method) for method in (*METHODS, PLAIN)}
            report["bias"][label] = {m: {"a": a, "log_n_at_1e24": n} for m, (a, n) in biases.items()}
            report["scatter"][label] = {m: scatter(design, truth, m, options.sweeps) for m in METHODS}
            print(label, json.dumps(report["scatter"][label]), file=sys.stderr, flush=True)
    if options.published.exists():
        report["published"] = published(options.published)
    options.out.write_text(json.dumps(report, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
