"""Partial-identification intervals of the frontier, against truths of the class and a brute force."""

import itertools
import json

import numpy as np
import pandas as pd
import pytest

import laws
from isoflop import cli
from laws.base.errors import InputError
from laws.forecasting.certificate import EXPONENTS, certificate, least_tolerance

C = np.geomspace(1e18, 1e20, 6)
AHEAD = np.array([1e21, 1e22])


def mixture(rng: np.random.Generator, c: np.ndarray) -> np.ndarray:
    """A floor and three power laws of exponents inside the grid's range."""
    weight, exponent = rng.exponential(1.0, 3), rng.uniform(0.02, 0.6, 3)
    return rng.uniform(0.5, 2.0) + np.sum(weight * (c[:, None] / 1e18) ** -exponent, axis=1)


@pytest.mark.parametrize("seed", range(12))
def test_a_truth_of_the_class_lies_within_the_ends(seed):
    rng = np.random.default_rng(seed)
    state = rng.bit_generator.state
    every = mixture(rng, np.r_[C, AHEAD])
    measured = every[:6] * (1 + 0.004 * rng.uniform(-1, 1, 6))
    interval = certificate(
        C, measured, 0.0045, AHEAD
    )  # a little more than the noise: exponents lie between those of the grid
    assert (interval.low <= every[6:]).all() and (every[6:] <= interval.high).all()
    rng.bit_generator.state = state
    assert interval.least_tolerance <= 1


def test_ends_move_apart_with_the_tolerance():
    loss = mixture(np.random.default_rng(3), C)
    found = [certificate(C, loss, tolerance, AHEAD) for tolerance in (0.0005, 0.002, 0.01)]
    assert all(
        (wide.low <= narrow.low).all() and (narrow.high <= wide.high).all()
        for narrow, wide in itertools.pairwise(found)
    )
    assert (np.diff([interval.high[1] - interval.low[1] for interval in found]) > 0).all()


def test_ends_move_apart_with_distance_and_meet_the_points():
    loss = mixture(np.random.default_rng(4), C)
    interval = certificate(C, loss, 0.002, np.r_[C, 1e21, 1e22, 1e23])
    width = interval.high - interval.low
    assert (width[:6] <= 0.004 * loss + 1e-9).all() and (np.diff(width[6:]) > 0).all()


def test_brute_force_on_a_small_grid():
    """Every basic solution of the constraints: the ends of a linear program lie at corners."""
    exponents, c, at = np.array([0.1, 0.5]), np.array([1.0, 10.0, 100.0]), np.array([1000.0])
    loss = np.array([3.0, 2.2, 1.9])
    tolerance = 0.02
    columns = np.hstack([np.ones((3, 1)), c[:, None] ** -exponents])
    upper = np.vstack([columns, -columns, -np.eye(3)])
    bound = np.r_[loss * (1 + tolerance), -loss * (1 - tolerance), np.zeros(3)]
    corners = []
    for rows in itertools.combinations(range(len(bound)), 3):
        chosen = upper[list(rows)]
        if abs(np.linalg.det(chosen)) > 1e-12:
            corner = np.linalg.solve(chosen, bound[list(rows)])
            if (upper @ corner <= bound + 1e-9).all():
                corners.append(corner)
    values = np.array(corners) @ np.r_[1.0, 1000.0**-exponents]
    interval = certificate(c, loss, tolerance, at, exponents)
    assert (interval.low[0], interval.high[0]) == pytest.approx((values.min(), values.max()), rel=1e-6)


def test_points_that_no_mixture_meets_widen_the_tolerance():
    loss = np.array([3.0, 2.5, 2.9, 2.0, 1.9, 1.8])  # rises from the second to the third
    least = least_tolerance(C, loss, np.full(6, 0.01))
    interval = certificate(C, loss, 0.01, AHEAD)
    assert least > 5 and interval.least_tolerance == pytest.approx(least)
    assert interval.tolerance == pytest.approx(0.01 * (1 + least))
    # The rise itself, 2.5 to 2.9, is met by no falling function within less than its half.
    assert interval.tolerance >= (2.9 - 2.5) / (2.9 + 2.5) - 1e-6


def test_a_class_that_misfits_leaves_no_point():
    """At the least tolerance one function is left; the one asked for comes on top."""
    loss = np.array([3.0, 2.5, 2.9, 2.0, 1.9, 1.8])
    found = [certificate(C, loss, tolerance, AHEAD) for tolerance in (0.001, 0.01)]
    assert all(
        (interval.high > interval.low * (1 + tolerance)).all()
        for interval, tolerance in zip(found, (0.001, 0.01), strict=True)
    )


def test_what_means_nothing_is_refused():
    with pytest.raises(InputError, match="needs 2 computes, and the frontier has 1"):
        certificate(np.full(3, 1e18), np.full(3, 2.0), 0.01, AHEAD)
    with pytest.raises(InputError, match="tolerance of a certificate must be positive"):
        certificate(C, np.full(6, 2.0), 0.0, AHEAD)
    assert (np.diff(EXPONENTS) > 0).all()


def frontier_runs() -> pd.DataFrame:
    """Iso-FLOP profiles of a separable law, noise 0.2%."""
    c = np.repeat(np.geomspace(1e18, 1e20, 6), 5)
    n = np.sqrt(c / 120) * np.tile(np.geomspace(0.35, 2.8, 5), 6)
    loss = 1.69 + 406.4 * n**-0.34 + 410.7 * (c / (6 * n)) ** -0.28
    return pd.DataFrame({"n": n, "d": c / (6 * n), "c": c, "loss": loss * np.exp(0.002 * np.sin(np.arange(30)))})


@pytest.fixture(scope="module")
def fit():
    return laws.load(frontier_runs(), n="n", d="d", c="c").fit("chinchilla", resamples=20)


def test_a_forecast_with_a_certificate(fit):
    plain, certified = fit.forecast(compute=1e22), fit.forecast_certificate(1e22)
    rests_on = certified.certificate
    assert plain.certificate is None and rests_on.points == 6 and rests_on.least <= 1
    assert certified.value == plain.value and certified.split == plain.split
    best = frontier_runs().groupby("c").loss.min()
    bounds = certificate(best.index.to_numpy(), best.to_numpy(), rests_on.tolerance, np.array([1e22]))
    assert certified.mean_interval == pytest.approx((bounds.low[0], bounds.high[0]))
    assert certified.interval[0] < certified.mean_interval[0] < certified.mean_interval[1] < certified.interval[1]
    tight = fit.forecast_certificate(1e22, tolerance=rests_on.tolerance / 2)
    assert np.ptp(tight.mean_interval) < np.ptp(certified.mean_interval)


def test_the_command(fit, tmp_path, capsys):
    path = str(fit.save(tmp_path / "fit.json"))
    assert cli.main(["predict", path, "--compute=1e22", "--interval=certificate", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["mean_interval"] == pytest.approx(fit.forecast_certificate(1e22).mean_interval)
    assert cli.main(["predict", path, "--compute=1e22", "--interval=certificate"]) == 0
    assert "certificate's interval" in capsys.readouterr().out
    for wrong in (
        ["--n=1e9", "--d=1e10", "--interval=certificate"],
        ["--compute=1e22", "--tolerance=0.01"],
        ["--compute=1e22", "--interval=certificate", f"--freeze={tmp_path / 'frozen.json'}"],
        ["--compute=1e22", "--interval=certificate", "--tolerance=-1"],
    ):
        assert cli.main(["predict", path, *wrong]) == 2
    assert not (tmp_path / "frozen.json").exists()


def test_a_certificate_along_a_ladder():
    c = np.geomspace(1e18, 1e20, 8)
    n = np.sqrt(c / 120)
    frame = pd.DataFrame({"n": n, "d": 20 * n, "c": c, "loss": 1.7 + 2 * (c / 1e18) ** -0.1})
    fit = laws.load(frame, n="n", d="d", c="c").fit("chinchilla", resamples=20)
    low, high = fit.forecast_certificate(1e22).mean_interval or (np.nan, np.nan)
    assert low < 1.7 + 2 * 1e4**-0.1 < high
