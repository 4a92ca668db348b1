"""A grid of sizes and horizons by single runs and by branches: FLOPs, losses, noise, and the intervals of the law.

    isoflop sweep --config=configs/lm/branches.py:single --workdir=runs/single
    isoflop sweep --config=configs/lm/branches.py:branches --workdir=runs/branches
    python -m benchmarks.branches --collect runs/single,runs/branches --table benchmarks/results/branches.csv
    python -m benchmarks.branches --table benchmarks/results/branches.csv --out benchmarks/results/branches.json

Errors of log loss have a part that the runs of a trunk share and a part of their own, which the two trunks of each size
tell apart. With these, and the law that was fitted to all runs, the standard errors of an estimate follow for any design
at equal FLOPs, as those of least squares under errors that are dependent within a trunk.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

import laws

COLUMNS = ("run_id", "trunk", "fork_step", "params_total", "tokens", "flops_exact", "steps", "peak_lr", "seed", "loss")
RESAMPLES = 1000
BEYOND = 4.0  # the target, in FLOPs of the largest run
FLOOR = 1.0  # of the law whose constants tell the standard errors: so few runs do not determine it
STEP = 1e-5  # of differences by the logarithm of a constant


def collected(paths: list[Path]) -> pd.DataFrame:
    """The runs of collected sweeps, each with its sweep as `design` and the FLOPs that it spent itself."""
    tables = [pd.read_parquet(path / "runs.parquet").assign(design=path.name) for path in paths]
    table = pd.concat([table[["design", *COLUMNS]] for table in tables], ignore_index=True)
    share = 1 - table.fork_step.fillna(0).astype(float) / table.steps
    return table.assign(own_flops=table.flops_exact * share).sort_values(["design", "params_total", "tokens", "seed"])


def compared(table: pd.DataFrame) -> dict[str, Any]:
    """What the two designs cost, by how much their losses differ, and how much their seeds do."""
    single, branch = (table[table.design == name] for name in ("single", "branches"))
    trunks = branch.trunk.fillna(branch.run_id)
    per_size = trunks.groupby(branch.params_total).nunique()
    log = np.log(branch.loss).groupby([branch.params_total, branch.tokens])
    pairs = log.diff().dropna() / np.sqrt(2)  # of the two trunks of a size at a horizon
    by_size = pairs.groupby(branch.params_total[pairs.index])
    own = float(np.sqrt(by_size.var(ddof=1).mean()))
    shared = float(np.sqrt(max((by_size.mean() ** 2).mean() - own**2 / by_size.size().mean(), 0.0)))
    at = single.set_index(["params_total", "tokens"])
    difference = log.mean() - np.log(at.loss)
    noise = np.sqrt(own**2 + shared**2)
    horizons = [
        {
            "tokens": int(tokens),
            "branch_over_single": float(np.expm1(values.mean())),
            "stderr": float(noise * np.sqrt(1.5 / len(values))),
            "rate_over_single": float(
                branch[branch.tokens == tokens].peak_lr.mean() / single[single.tokens == tokens].peak_lr.mean()
            ),
        }
        for tokens, values in difference.groupby(level="tokens")
    ]
    return {
        "runs": {"single": len(single), "branches": len(branch)},
        "trunks_per_size": int(per_size.iloc[0]),
        "flops": {"single": float(single.flops_exact.sum()), "branches": float(branch.own_flops.sum())},
        "flops_of_one_trunk_a_size_over_single": float(
            branch.own_flops.sum() / per_size.iloc[0] / single.flops_exact.sum()
        ),
        "noise_shared_by_a_trunk": shared,
        "noise_of_a_run": own,
        "differences": {
            "mean": float(difference.mean()),
            "mean_stderr": float(np.sqrt(noise**2 / len(single) + shared**2 / trunks.nunique() + own**2 / len(branch))),
            "rms": float(np.sqrt((difference**2).mean())),
            "rms_expected_of_noise": float(noise * np.sqrt(1.5)),
        },
        "horizons": horizons,
    }


def intervals(table: pd.DataFrame, target: float) -> dict[str, Any]:
    """Widths of the 95% intervals of `laws` from the runs of each design: of exponents, and of the loss at the target."""
    out = {}
    for name in ("single", "branches"):
        runs: Any = table[table.design == name]
        fit = laws.load(runs).fit("chinchilla", resamples=RESAMPLES, target=target)
        report = fit.report
        ends: dict[str, Any] = {**report.intervals.params, **report.intervals.derived}
        chosen = {key: ends[key] for key in ("alpha", "beta", "a", "loss_opt")}
        out[name] = {
            "constants": report.params,
            "loss_opt": report.derived["loss_opt"],
            "intervals": {key: [float(end) for end in pair] for key, pair in chosen.items()},
            "widths": {key: float(pair[1] - pair[0]) for key, pair in chosen.items()},
            "independent_runs": report.n_runs,
        }
    return out


def standard_errors(
    constants: dict[str, float], sizes: Float[np.ndarray, " rows"], tokens: Float[np.ndarray, " rows"], **errors: Any
) -> dict[str, float]:
    """Standard errors of least squares of log loss, the floor known, where errors of one trunk have a part in common.

    Args:
        constants: of the law.
        sizes: parameters of each run.
        tokens: of each run.
        errors: `trunk`, the number of each run's trunk; `shared` and `own`, standard deviations; `target`, FLOPs.
    """
    names = ("A", "B", "alpha", "beta")
    at = np.log([constants[name] for name in names])

    def log_loss(logs: Float[np.ndarray, " constants"], n: Any, d: Any) -> Any:
        a, b, alpha, beta = np.exp(logs)
        return np.log(constants["E"] + a * n**-alpha + b * d**-beta)

    def best(logs: Float[np.ndarray, " constants"]) -> float:
        n = np.geomspace(sizes.min() / 10, sizes.max() * 100, 20_001)
        return float(np.min(log_loss(logs, n, errors["target"] / 6 / n)))

    def derivative(function: Any) -> Any:
        return np.stack([(function(at + STEP * e) - function(at - STEP * e)) / (2 * STEP) for e in np.eye(4)], axis=-1)

    jacobian = derivative(lambda logs: log_loss(logs, sizes, tokens))
    same = errors["trunk"][:, None] == errors["trunk"][None, :]
    covariance = errors["shared"] ** 2 * same + errors["own"] ** 2 * np.eye(len(sizes))
    inverse = np.linalg.inv(jacobian.T @ jacobian)
    variance = inverse @ jacobian.T @ covariance @ jacobian @ inverse
    weights = {"alpha": np.eye(4)[2], "beta": np.eye(4)[3], "loss_opt": derivative(best)}
    return {name: float(np.sqrt(w @ variance @ w)) for name, w in weights.items()}


def designs(table: pd.DataFrame, facts: dict[str, Any], constants: dict[str, float], target: float) -> dict[str, Any]:
    """Standard errors of relative size, by design: single runs; branches of two trunks a size; of twice as many sizes."""
    single = table[table.design == "single"]
    sizes, tokens = np.unique(single.params_total), np.unique(single.tokens)
    n, d = (grid.ravel() for grid in np.meshgrid(sizes, tokens, indexing="ij"))
    of_size = np.repeat(np.arange(len(sizes)), len(tokens))
    noise = {"shared": facts["noise_shared_by_a_trunk"], "own": facts["noise_of_a_run"], "target": target}
    finer = np.geomspace(sizes[0], sizes[-1], 2 * len(sizes))
    wide = [grid.ravel() for grid in np.meshgrid(finer, tokens, indexing="ij")]
    return {
        "single runs, a seed each": standard_errors(constants, n, d, trunk=np.arange(len(n)), **noise),
        "branches, two trunks a size": standard_errors(
            constants, np.tile(n, 2), np.tile(d, 2), trunk=np.r_[of_size, of_size + len(sizes)], **noise
        ),
        "branches, twice as many sizes": standard_errors(
            constants, *wide, trunk=np.repeat(np.arange(len(finer)), len(tokens)), **noise
        ),
    }


def main() -> None:
    """Write the table of the runs, or what follows from it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--collect", help="collected sweeps, as single,branches")
    parser.add_argument("--table", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.collect:
        collected([Path(path) for path in options.collect.split(",")]).to_csv(options.table, index=False)
    if options.out:
        table = pd.read_csv(options.table)
        target = BEYOND * float(table.flops_exact.max())
        facts, fits = compared(table), intervals(table, target)
        pooled = laws.load(table, run="run_id").fit("chinchilla", resamples=0, fixed={"E": FLOOR}).report.params
        result = {
            **facts,
            "target_flops": target,
            "floor": FLOOR,
            "fits": fits,
            "standard_errors": designs(table, facts, {**pooled, "E": FLOOR}, target),
        }
        options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
