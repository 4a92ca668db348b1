"""Sweeps with a known truth, for the tests of the laws."""

import numpy as np
import pandas as pd

TRUTH = {"A": 28.0, "B": 60.0, "E": 1.0, "alpha": 0.42, "beta": 0.34}
WIDTHS = {
    1.0e11: (8, 16, 24, 32, 48),
    1.8e11: (8, 16, 24, 32, 48),
    3.2e11: (16, 24, 32, 48, 64),
    5.8e11: (16, 24, 32, 48, 64),
    1.0e12: (24, 32, 48, 64, 80),
}


def law(n, d):
    """The true loss."""
    return TRUTH["E"] + TRUTH["A"] / n ** TRUTH["alpha"] + TRUTH["B"] / d ** TRUTH["beta"]


def flops_per_token(width):
    """Exact training FLOPs of a token for two layers of some width at context 128 and 256 symbols."""
    return 6 * (24 * width**2 + 256 * width) + 12 * 2 * 128 * width


def simulate(noise: float = 0.003, seed: int = 0, seeds: int = 3) -> pd.DataFrame:
    """A collected iso-FLOP sweep in exact FLOPs, the middle size of each budget repeated with other seeds."""
    rng, rows = np.random.default_rng(seed), []
    for budget, widths in WIDTHS.items():
        for width in widths:
            for again in range(seeds if width == widths[2] else 1):
                n = 24 * width**2 + 2 * 256 * width
                d = int(budget / flops_per_token(width))
                rows.append(
                    {
                        "run_id": f"r{len(rows):03d}",
                        "status": "completed",
                        "seed": again,
                        "params_total": n,
                        "params_non_embedding": 24 * width**2,
                        "tokens": d,
                        "flops_exact": d * flops_per_token(width),
                        "flops_6nd": 6 * n * d,
                        "loss": law(n, d) * np.exp(noise * rng.standard_normal()),
                        "budget": budget,
                        "ended_at": 1.8e9 + 60.0 * len(rows),
                    }
                )
    return pd.DataFrame(rows)


def simulate_curves(runs: pd.DataFrame, noise: float = 0.01, seed: int = 1) -> pd.DataFrame:
    """Noisy learning curves that follow the law all along."""
    rng, pieces = np.random.default_rng(seed), []
    for run in runs.itertuples():
        tokens = np.linspace(run.tokens / 200, run.tokens, 200)
        loss = law(run.params_total, tokens) * np.exp(noise * rng.standard_normal(200))
        pieces.append(
            pd.DataFrame(
                {"run_id": run.run_id, "step": range(200), "tokens": tokens, "learning_rate": 1.0, "loss": loss}
            )
        )
    return pd.concat(pieces, ignore_index=True)
