"""The bootstrap over runs and the noise of a run."""

import numpy as np
import pandas as pd
import pytest
from simulated import TRUTH, simulate

import laws
from laws.fit import fit
from laws.forms import find
from laws.uncertainty import bootstrap, interval, resampled_weights, seed_deviation


def test_runs_are_resampled_with_all_their_rows():
    run = np.array(["a", "a", "a", "b", "c", "c"])
    weights = resampled_weights(run, np.ones(6), 200, seed=0)
    assert (weights[:, 0] == weights[:, 1]).all()
    assert (weights[:, 1] == weights[:, 2]).all()
    assert (weights[:, 4] == weights[:, 5]).all()
    assert (weights[:, [0, 3, 4]].sum(axis=1) == 3).all()
    held_out = resampled_weights(run, np.array([1, 1, 1, 1, 0, 0.0]), 50, seed=0)
    assert (held_out[:, 4:] == 0).all()


def test_rows_of_a_run_do_not_make_the_interval_narrower():
    """Trap 5: copies of a run's points carry no new information."""
    rng = np.random.default_rng(0)
    c = np.geomspace(1e18, 1e21, 30)
    loss = 3 * c**-0.05 * np.exp(0.01 * rng.standard_normal(30))
    single = pd.DataFrame({"c": c, "loss": loss, "run": range(30)})
    copies = pd.concat(
        [single.assign(c=single.c * (1 + 1e-5 * k), loss=single.loss * (1 + 1e-7 * k)) for k in range(5)]
    )
    widths = [
        np.ptp(laws.load(frame, c="c", run="run").fit("power_c", resamples=300).intervals["params"]["p"])
        for frame in (single, copies)
    ]
    assert widths[1] == pytest.approx(widths[0], rel=0.15)
    by_row = laws.load(copies, c="c").fit("power_c", resamples=300).intervals["params"]["p"]
    assert np.ptp(by_row) < 0.6 * widths[0]


def test_bootstrap_matches_refitting(below):
    """Warm starts reach the optimum that a whole fit of the resample reaches."""
    table, law = laws.load(below), find("chinchilla")
    optimum = fit(law, table)
    drawn = bootstrap(optimum, table, np.ones(len(table)), resamples=6, seed=3)
    weights = resampled_weights(table.run, np.ones(len(table)), 6, seed=3)
    assert drawn.not_converged == 0
    for row, weight in zip(drawn.natural, weights, strict=True):
        again = fit(law, table, weight=weight)
        assert again.natural[3:] == pytest.approx(row[3:], rel=1e-4)


def test_the_same_seed_gives_the_same_intervals(below):
    table = laws.load(below)
    first, second, other = (table.fit("power_c", resamples=50, seed=s).intervals for s in (1, 1, 2))
    assert first == second
    assert first != other


def test_noise_from_repeated_seeds(sweep):
    many = pd.concat(
        [
            sweep.assign(loss=sweep.loss * np.exp(0.02 * np.random.default_rng(k).standard_normal(len(sweep))))
            for k in range(20)
        ]
    )
    table = laws.load(many.drop(columns="run_id"))
    found, freedom = seed_deviation(table, np.ones(len(table), bool))
    assert found == pytest.approx(0.02, rel=0.1)
    assert freedom == len(table) - 25
    no_seeds = laws.load(sweep[sweep.seed == 0])
    assert seed_deviation(no_seeds, np.ones(len(no_seeds), bool)) == (None, 0)


def test_interval_ignores_what_is_not_finite():
    low, high = interval(np.array([np.nan, *np.linspace(0, 1, 101), np.inf]), 0.9)
    assert (low, high) == pytest.approx((0.05, 0.95))
    assert np.isnan(interval(np.array([np.nan]), 0.9)).all()


@pytest.mark.slow
def test_intervals_cover_the_truth():
    """Nominal 80% intervals of the exponents on simulated sweeps of the demo's size: coverage within sampling error."""
    inside = {"alpha": 0, "beta": 0}
    for seed in range(100):
        found = laws.load(simulate(seed=seed)).fit("chinchilla", resamples=200, level=0.8)
        for name in inside:
            low, high = found.intervals["params"][name]
            inside[name] += low <= TRUTH[name] <= high
    assert all(0.62 <= count / 100 <= 0.95 for count in inside.values()), inside
