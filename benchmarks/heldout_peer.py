"""The contender simple-scaling-laws (PyPI, extra `bench` in Python 3.12; `--peer` names a folder with it elsewhere)."""

from __future__ import annotations

import importlib

import numpy as np

from benchmarks.heldout_cases import Points, Rows
from benchmarks.heldout_forecasts import LEVELS, CannotForecast, RunForecasts

PEER = "simple_scaling_laws"
N, D, LOSS = "model_size__n_params", "dataset_size__n_tokens", "test_loss__ce"


def simple_scaling_laws(rows: Rows, points: Points) -> RunForecasts:
    """Its default law, median and quantiles of a new run; every row is a run of its own."""
    package, polars = (importlib.import_module(name) for name in (PEER, "polars"))
    runs = [f"run{i}" for i in range(len(rows))]
    frame = polars.DataFrame({"training_run_id": runs, N: rows.n, D: rows.d, LOSS: rows.loss})
    tails = [((1 - level) / 2, (1 + level) / 2) for level in LEVELS]
    quantiles = sorted({0.5, *(tail for pair in tails for tail in pair)})
    try:
        model = package.fit(frame)
        ahead = polars.DataFrame({"point_id": [str(i) for i in range(len(points))], N: points.n, D: points.d})
        found = model.predict(ahead, kind="new-run", quantiles=quantiles)
    except ValueError as error:
        raise CannotForecast(str(error)) from error
    values = found[[column for column in found.columns if column.startswith(f"{LOSS}__")]].to_numpy()
    at = {quantile: values[:, i] for i, quantile in enumerate(quantiles)}
    return RunForecasts(at[0.5], np.array([[at[low], at[high]] for low, high in tails]))
