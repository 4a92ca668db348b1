"""Profile likelihood: exact where theory is exact, open where the runs say nothing."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from scipy.stats import t as student

import laws
from laws.base.array_math import exp, power
from laws.estimation.estimate import estimate
from laws.inference.noise import noise_of
from laws.inference.profile import DRAWN, Profile, collinear, profiles
from laws.inference.resampling import DesignFits, leave_one_out
from laws.model.coordinates import Coordinates
from laws.model.forms import find
from laws.model.law import Law, Param
from laws.results.report_parts import WarningKind


def by_name(law):
    return {name: (lambda params, i=i: params[:, i]) for i, name in enumerate(law.names)}


@pytest.fixture(scope="module")
def line():
    """A power law: its log is a straight line in log C, with normal noise."""
    c = np.geomspace(1e18, 1e21, 12)
    loss = 3 * (c / 1e20) ** -0.05 * np.exp(0.01 * np.random.default_rng(0).standard_normal(12))
    return laws.load(pd.DataFrame({"c": c, "loss": loss}), c="c")


def test_least_squares_on_a_straight_line_give_the_t_interval(line):
    law = find("power_c")
    optimum = estimate(law, line, "log_squared")
    fits, noise = DesignFits.of(optimum, line), noise_of(optimum, line, np.ones(12))
    found = profiles(fits, leave_one_out(fits).residual[0], noise.deviation, noise.dof, by_name(law), frozenset({"k"}))
    x, y = np.log(line.values["c"]), np.log(line.loss)
    design = np.stack([np.ones(12), -x], axis=1)
    constants, squares = np.linalg.lstsq(design, y, rcond=None)[:2]
    deviation = np.sqrt(np.diag(np.linalg.inv(design.T @ design)) * squares[0] / 10)
    for level in (0.5, 0.95):
        ends = constants[:, None] + student.ppf([(1 - level) / 2, (1 + level) / 2], 10) * deviation[:, None]
        assert np.log(found["k"].interval(level)) == pytest.approx(ends[0], rel=2e-3)
        assert found["p"].interval(level) == pytest.approx(ends[1], rel=2e-3)


def test_the_curve_of_a_straight_line_is_a_parabola(line):
    """Deviance is the squared distance in standard errors, wherever the search went."""
    law = find("power_c")
    optimum = estimate(law, line, "log_squared")
    fits, noise = DesignFits.of(optimum, line), noise_of(optimum, line, np.ones(12))
    found = profiles(fits, leave_one_out(fits).residual[0], noise.deviation, noise.dof, by_name(law))
    values, roots = found["p"].curve()
    low, high = found["p"].interval(0.95)
    error = (high - low) / 2 / student.ppf(0.975, 10)
    assert 9 <= len(values) <= DRAWN and 0 in roots
    assert (np.diff(values) > 0).all() and (np.diff(roots) >= 0).all()
    assert roots == pytest.approx((values - optimum.constants["p"]) / error, abs=0.02)
    assert all(np.abs(roots - share * student.ppf(0.975, 10)).min() < 0.15 for share in (-0.75, -0.25, 0.5, 1))


def test_a_curve_leaves_out_what_lies_behind_a_higher_point():
    seen = Profile(np.array([1.0, 2.0, 3.0, 4.0]), np.array([0.0, 1.0, 0.5, 2.0]), 20)
    assert [list(part) for part in seen.curve()] == [[1.0, 2.0, 4.0], [0.0, 1.0, 2.0]]


def test_an_end_that_was_not_reached_is_open():
    seen = Profile(np.array([1.0, 0.5, 1.5, 3.0]), np.array([0.0, -3.0, 1.0, 1.2]), 20)
    low, high = seen.interval(0.95)
    assert 0.5 < low < 1.0
    assert high == np.inf
    assert Profile(np.array([1.0, 0.5]), np.array([0.0, -1.0]), 20, log_scaled=True).interval(0.95) == (0.0, np.inf)


def test_a_constant_that_the_runs_do_not_see_is_called_unidentified():
    """As R_D* where tokens are hardly repeated: every large value explains the runs as well (LAWS.md, trap 4)."""
    law = Law(
        name="bent",
        formula="L(D) = k / D^p e^(D / D0)",
        source="a test",
        columns=("d",),
        params=(
            Param("k", "weight"),
            Param("p", "exponent", 1e-3, 2.0, "linear", (0.05, 0.1, 0.2)),
            Param("D0", "scale of the bend", 1e9, 1e18, starts=(1e9, 1e11, 1e13)),
        ),
        value=lambda p, x: p["k"] * power(x["d"], -p["p"]) * exp(x["d"] / p["D0"]),
        linear=("k",),
    )
    d = np.geomspace(1e7, 1e9, 20)
    loss = 8 * d**-0.1 * np.exp(d / 1e12) * np.exp(0.003 * np.random.default_rng(1).standard_normal(20))
    fit = laws.load(pd.DataFrame({"d": d, "loss": loss}), d="d").fit(law, resamples=50, objective="log_squared")
    low, high = fit.report.profile.params["D0"]
    assert 1e10 < low < 1e12 and high is None
    (text,) = [str(warning) for warning in fit.warnings if warning.kind == WarningKind.UNIDENTIFIED]
    assert "D0" in text and " p" not in text.split("of")[1]


def test_weights_of_powers_are_collinear_and_floors_are_not(below):
    law = find("chinchilla")
    centre = Coordinates.of(law, laws.load(below).values).centre
    assert collinear(law, np.array([28.0, 60.0, 1.0, 0.42, 0.34]), centre) == ("A", "B")


def test_a_law_written_with_jax_numpy_has_the_same_collinear_weights(below):
    """Its terms are taken in float64: in float32 the unit of a linear constant overflows."""
    law = find("chinchilla")
    value = lambda p, x: p["E"] + p["A"] / jnp.power(x["n"], p["alpha"]) + p["B"] / jnp.power(x["d"], p["beta"])
    centre = Coordinates.of(law, laws.load(below).values).centre
    params = np.array([28.0, 60.0, 1.0, 0.42, 0.34])
    assert collinear(replace(law, name="jnp", value=value), params, centre) == collinear(law, params, centre)


def test_the_profile_of_a_fit_agrees_with_its_resamples(fitted):
    profile, resampled = fitted.report.profile, fitted.report.intervals
    assert profile.level == 0.95
    for kind, names in (("params", ("alpha", "beta", "E")), ("derived", ("a", "n_opt", "d_opt", "loss_opt"))):
        for name in names:
            one, other = getattr(profile, kind)[name], getattr(resampled, kind)[name]
            assert one[0] < getattr(fitted.report, kind)[name] < one[1]
            assert 0.4 < np.ptp(one) / np.ptp(other) < 2.5


def test_a_and_b_are_reported_where_they_are_not_collinear(fitted):
    """What each term adds to the loss at the geometric mean of the runs."""
    terms, p = fitted.report.terms_at_centroid, fitted.params
    n, d = terms.centroid["n"], terms.centroid["d"]
    assert terms.params["A"] == pytest.approx(p["A"] / n ** p["alpha"])
    assert terms.params["B"] == pytest.approx(p["B"] / d ** p["beta"])
    assert terms.collinear == ("A", "B")
    spans = lambda ends: ends[1] / ends[0]
    assert spans(terms.intervals["A"]) < spans(fitted.report.intervals.params["A"])
