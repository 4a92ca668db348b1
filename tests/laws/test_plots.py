"""Figures: drawn for what a fit holds, and left out for what it does not."""

import numpy as np
import pandas as pd
import pytest

import laws

ALL = {"isoflop", "loss_vs_compute", "optimum_vs_compute", "residuals", "learning_curves"}


def test_a_sweep_gives_every_figure(fitted, curves, tmp_path):
    files = fitted.plot(tmp_path / "figures", laws.load_curves(curves))
    assert {file.stem for file in files} == ALL
    assert {file.suffix for file in files} == {".png", ".svg"}
    assert all(file.stat().st_size > 5000 for file in files)


def test_without_curves(fitted, tmp_path):
    assert {file.stem for file in fitted.plot(tmp_path)} == ALL - {"learning_curves"}


def test_a_law_of_one_column(sweep, tmp_path):
    found = laws.load(sweep).fit("power_offset_c", resamples=20)
    assert {file.stem for file in found.plot(tmp_path)} == {"residuals", "law"}


def test_a_table_without_budgets(tmp_path):
    rng = np.random.default_rng(0)
    n, d = 10 ** rng.uniform(7, 9, 20), 10 ** rng.uniform(9, 11, 20)
    frame = pd.DataFrame({"n": n, "d": d, "loss": 1.7 + 400 / n**0.34 + 1500 / d**0.37})
    files = laws.load(frame, n="n", d="d").fit("chinchilla", resamples=20).plot(tmp_path)
    assert {file.stem for file in files} == {"loss_vs_compute", "optimum_vs_compute", "residuals"}


@pytest.mark.parametrize("suffix", ["svg"])
def test_figures_are_reproducible(fitted, tmp_path, suffix):
    first, second = (fitted.plot(tmp_path / name) for name in ("a", "b"))
    for one, two in zip(first, second, strict=True):
        if one.suffix == f".{suffix}":
            assert one.read_bytes() == two.read_bytes()
