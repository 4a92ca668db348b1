"""Learning curves as tables of the law `annealing`: its areas follow from the rates along each run."""

import json

import numpy as np
import pandas as pd
import pytest

import laws
from isoflop import cli

LOGGED = np.r_[1, np.arange(20, 1001, 20)]
CONSTANTS = {"L0": 2.6, "A": 0.6, "C": 0.4, "alpha": 0.45}
# Corners of schedules that are straight lines in between, each at a step that is logged.
SCHEDULES = {
    "constant": ([1, 100, 1000], [1e-5, 1e-3, 1e-3]),
    "decay": ([1, 100, 700, 1000], [1e-5, 1e-3, 1e-3, 1e-5]),
    "late decay": ([1, 100, 900, 1000], [1e-5, 1e-3, 1e-3, 1e-5]),
    "low": ([1, 100, 1000], [1e-5, 3e-4, 3e-4]),
    "long warm-up": ([1, 500, 1000], [1e-5, 1e-3, 5e-4]),
    "two stages": ([1, 100, 400, 420, 1000], [1e-5, 2e-3, 2e-3, 5e-4, 5e-4]),
}


def areas(rates) -> tuple[np.ndarray, np.ndarray]:
    """Summed rate and annealed area, step by step."""
    momentum, gained, annealed, out = 0.999, 0.0, 0.0, []
    for before, now in zip([rates[0], *rates[:-1]], rates, strict=True):
        gained = momentum * gained + before - now
        annealed += gained
        out.append(annealed)
    return np.cumsum(rates), np.array(out)


@pytest.fixture(scope="module")
def curves() -> pd.DataFrame:
    """Rows of all runs in no order, with losses of the law itself."""
    frames = []
    for run, (steps, corners) in SCHEDULES.items():
        s1, s2 = (area[LOGGED - 1] for area in areas(np.interp(np.arange(1, 1001), steps, corners)))
        loss = CONSTANTS["L0"] + CONSTANTS["A"] * s1 ** -CONSTANTS["alpha"] - CONSTANTS["C"] * s2
        rates = np.interp(LOGGED, steps, corners)
        frames.append(pd.DataFrame({"run_id": run, "step": LOGGED, "learning_rate": rates, "loss": loss}))
    return pd.concat(frames, ignore_index=True).sample(frac=1, random_state=0)


def test_the_command_fits_curves(curves, capsys, tmp_path):
    curves.to_csv(tmp_path / "curves.csv", index=False)
    argv = ["fit", str(tmp_path / "curves.csv"), "--law=annealing", "--where=step > 50", "--resamples=0", "--json"]
    assert cli.main([*argv, f"--out={tmp_path / 'fit.json'}"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["params"] == pytest.approx(CONSTANTS, rel=1e-4)
    assert report["n_runs"] == len(SCHEDULES) and report["n_rows"] == int((curves.step > 50).sum())


def test_columns_that_are_there_are_left_alone(curves):
    own = laws.load(curves.assign(rate_area=1.0, annealed_area=np.arange(len(curves), dtype=float)))
    assert set(own.frame.rate_area) == {1.0}
    assert own.header[-2:] == ("rate_area", "annealed_area")


@pytest.mark.parametrize(
    "table",
    [
        lambda curves: curves[curves.step > 1],
        lambda curves: curves.drop(columns="run_id").drop_duplicates(),
        lambda curves: curves.drop(columns="learning_rate"),
        lambda curves: curves.drop(columns="step"),
    ],
)
def test_curves_that_do_not_tell_their_schedule_are_refused_by_one_line(curves, capsys, tmp_path, table):
    table(curves).to_csv(tmp_path / "curves.csv", index=False)
    assert cli.main(["fit", str(tmp_path / "curves.csv"), "--law=annealing", f"--out={tmp_path / 'fit.json'}"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "curves.csv" in line and "no 'rate_area'" in line and "step and learning_rate" in line
    assert not (tmp_path / "fit.json").exists()
