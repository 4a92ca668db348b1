"""What the answer owes to choices: every row is a fit of its own, and conventions keep the run that they describe."""

import dataclasses
import itertools

import numpy as np
import pytest
from simulated import simulate

import laws
from laws.base.errors import InputError
from laws.uses.floor_profile import floor_profile
from laws.uses.sensitivity import sensitivity


@pytest.fixture(scope="module")
def with_surfaces():
    frame = simulate(noise=0.002)
    table = laws.load(frame)
    return table, frame, table.fit("chinchilla", resamples=40, target=1e12)


@pytest.fixture(scope="module")
def rows():
    frame = simulate(noise=0.001)
    frame = frame[frame.budget < 1e12]
    table = laws.load(frame)
    fitted = table.fit("chinchilla", resamples=0, target=1e12)
    return fitted, sensitivity(fitted, table, lambda **columns: laws.load(frame, **columns))


def test_the_first_row_is_the_fit_itself(rows):
    fitted, (first, *_) = rows
    assert first.kind == "as fitted"
    for name, key in (("a", "a"), ("n", "n_opt"), ("loss", "loss_opt")):
        assert getattr(first, name) == pytest.approx(fitted.derived["value"][key], rel=1e-6)


def test_every_kind_of_choice_is_made(rows):
    _, choices = rows
    kinds = [row.kind for row in choices]
    counts = {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)}
    assert counts["objective"] == 3 and counts["left out"] == 4 and counts["form"] >= 2 and counts["convention"] == 2
    assert all(row.a is not None or row.reason for row in choices)


def test_good_data_hardly_move_and_a_wrong_form_does(rows):
    fitted, choices = rows
    derived = fitted.derived["value"]
    by = {row.choice: row for row in choices}
    for choice in ("log_huber, delta 0.01", "log_squared", "the 1 worst-fitted"):
        assert by[choice].a == pytest.approx(derived["a"], abs=0.02)
        assert by[choice].loss == pytest.approx(derived["loss_opt"], rel=2e-3)
    assert abs(by["kaplan"].a - derived["a"]) > 0.02  # the truth has an offset, which this form has not


def test_conventions_describe_the_same_run(rows):
    """N* in other parameters is N* less its embeddings, and the target is what that run costs in the other compute."""
    fitted, choices = rows
    derived = fitted.derived["value"]
    by = {row.choice: row for row in choices}
    other = by["n = params_non_embedding"]
    assert other.n < derived["n_opt"] and other.loss == pytest.approx(derived["loss_opt"], rel=3e-3)
    six = by["c = flops_6nd"]
    assert six.c == pytest.approx(6 * derived["n_opt"] * derived["d_opt"], rel=0.02)


def test_a_law_without_a_split_is_refused():
    table = laws.load(simulate())
    fitted = table.fit("power_offset_c", resamples=0)
    with pytest.raises(InputError, match="law 'power_offset_c' is not a law of both n and d"):
        sensitivity(fitted, table, None)


def test_the_score_of_surfaces_is_varied_and_the_first_row_of_it_is_the_forecast(with_surfaces):
    table, frame, fitted = with_surfaces
    rows = sensitivity(fitted, table, lambda **columns: laws.load(frame, **columns))
    near = [row for row in rows if row.kind == "near"]
    assert [row.choice.split()[4] for row in near] == ["2", "4", "16", "1000"]
    (as_fitted,) = (row for row in near if "(as fitted)" in row.choice)
    forecast = fitted.forecast(compute=1e12)
    assert (as_fitted.loss, as_fitted.n) == pytest.approx((forecast.value, forecast.split.n))
    assert all(row.loss == pytest.approx(forecast.value, rel=0.02) for row in near)


def test_the_forecast_by_floor_passes_through_the_fit_and_rises(with_surfaces, tmp_path):
    """In the runs' noise E is known to a few percent; a floor too low by a third forecasts too low a loss."""
    table, _, fitted = with_surfaces
    points = floor_profile(fitted, table)
    floors, losses = np.array([(point.floor, point.loss) for point in points]).T
    assert (np.diff(floors) > 0).all() and (np.diff(losses) > 0).all()
    best = min(points, key=lambda point: point.objective)
    assert best.floor == pytest.approx(fitted.params["E"]) and best.inside
    assert best.loss == pytest.approx(fitted.derived.value["loss_opt"], rel=1e-6)
    low, high = fitted.report.profile.params["E"]
    assert [point.inside for point in points] == [low <= point.floor <= high for point in points]
    assert not points[0].inside and not points[-1].inside
    report = dataclasses.replace(fitted.report, floor_profile=points)
    path = dataclasses.replace(fitted, report=report).save(tmp_path / "fit.json")
    axes = laws.read_fit(path).plot.floor()
    assert axes.get_xlabel() == "$E$"
    labels = axes.get_legend_handles_labels()[1]
    assert {"surfaces, by $E$", "law, $E$ held in its interval"} <= set(labels)
    assert laws.read_fit(path).report.floor_profile == points


def test_the_mixtures_forecast_by_floor_is_that_of_its_draws(with_surfaces):
    """Against the surfaces' own draws in fit.json, weighed by hand: E halves at its weighted median, and the loss rises."""
    _, _, fitted = with_surfaces
    parts = fitted.report.floor_forecast
    forecast = fitted.forecast(compute=1e12)
    assert sum(part.weight for part in parts) == pytest.approx(1)
    assert all(part.floor_low <= part.floor <= part.floor_high and part.low < part.loss < part.high for part in parts)
    assert all(here.floor_high == there.floor_low for here, there in itertools.pairwise(parts))
    losses = np.array([part.loss for part in parts])
    assert losses[0] < forecast.value < losses[-1] and np.corrcoef(losses, np.arange(len(losses)))[0, 1] > 0.8
    surfaces = [form for form in fitted.report.model_average.forms if form.noise]
    floors = np.concatenate([form.samples["E"] for form in surfaces])
    weight = np.concatenate([np.full(len(form.noise), form.weight / len(form.noise)) for form in surfaces])
    order = np.argsort(floors)
    middle = floors[order][np.searchsorted(np.cumsum(weight[order]), 0.5 * weight.sum())]
    assert parts[len(parts) // 2].floor_low == pytest.approx(middle, rel=0.03)


def test_a_fit_without_floors_has_no_figure_of_them(with_surfaces):
    table, _, _ = with_surfaces
    with pytest.raises(InputError, match="the fit has no forecast by floor"):
        table.fit("chinchilla", resamples=0).plot.floor()
    with pytest.raises(InputError, match="has no floor E"):
        floor_profile(table.fit("power_c", resamples=0), table)
