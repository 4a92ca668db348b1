"""Surfaces under a prior: their derivatives, posteriors, local fits, weights, and what a fit forecasts by them."""

import numpy as np
import pandas as pd
import pytest

import laws
from laws.base.uncertainty_config import UncertaintyConfig
from laws.estimation.estimate import log_predictions
from laws.forecasting import posterior, surface
from laws.forecasting.design_rows import budgets_of, nearness, origins_of
from laws.forecasting.priors import LEARNED, SOURCES, prior_of, public_moments, separable
from laws.forecasting.surface_ensemble import forms_of
from laws.model.forms import LAWS

TRUTH = {"A": 22600.0, "B": 216000.0, "E": 1.69, "alpha": 0.6, "beta": 0.62, "kappa": 0.5}
NOISE = 0.003


def sweep(seed=0, budgets=6, sizes=5, decades=2.0):
    """Runs of the coupled law, in iso-FLOP profiles."""
    c = np.repeat(np.geomspace(1e18, 1e18 * 10**decades, budgets), sizes)
    n = np.sqrt(c / 120) * np.tile(np.geomspace(0.35, 2.8, sizes), budgets)
    frame = pd.DataFrame({"n": n, "d": c / (6 * n), "c": c})
    noise = np.random.default_rng(seed).standard_normal(len(c))
    return frame.assign(loss=true_loss(frame) * np.exp(NOISE * noise))


def true_loss(frame):
    law = LAWS["coupled"]
    params = np.array([[TRUTH[name] for name in law.names]])
    return np.exp(log_predictions(law, params, {"n": frame.n.to_numpy(), "d": frame.d.to_numpy()})[0])


def problems_of(frame, weight=None, prior="public"):
    weight = np.ones(len(frame)) if weight is None else weight
    inputs = np.log(frame[["n", "d"]].to_numpy().T)
    return posterior.Problems.of(
        surface.SURFACE, inputs, np.log(frame.loss.to_numpy())[None], weight[None], [prior_of(prior)]
    )


def mode_of(problems):
    starts = problems.mean.copy()
    starts[:, surface.SCALE] = np.log(0.03)
    return posterior.modes(problems, starts)


def test_the_surface_is_the_law_coupled():
    problems = problems_of(sweep())
    points = problems.mean[:, None] + 0.3 * np.random.default_rng(0).standard_normal((1, 4, 7))
    constants = surface.constants(problems.frame, points)
    law = LAWS["coupled"]
    params = np.stack([constants[name][0] for name in law.names], axis=1)
    columns = dict(zip("nd", np.exp(problems.inputs), strict=True))
    expected = log_predictions(law, params, columns)
    assert surface.log_losses(problems.frame, points, problems.inputs)[0] == pytest.approx(expected, rel=1e-9)


def test_slopes_are_those_of_finite_differences():
    problems = problems_of(sweep())
    points, step = problems.mean[:, None], 1e-6
    slopes = surface.slopes(problems.frame, points, problems.inputs)[0, 0]
    for i in range(len(surface.COORDINATES)):
        shift = step * np.eye(len(surface.COORDINATES))[i]
        above, below = (
            surface.log_losses(problems.frame, points + sign * shift, problems.inputs)[0, 0] for sign in (1, -1)
        )
        assert slopes[:, i] == pytest.approx((above - below) / (2 * step), abs=1e-8), surface.COORDINATES[i]


def test_the_mode_is_where_the_density_is_highest():
    problems = problems_of(sweep())
    mode = mode_of(problems)
    aside = mode.point[:, None] + 0.02 * np.random.default_rng(1).standard_normal((1, 200, 7))
    assert (posterior.log_density(problems, aside) < mode.log_density).all()
    found = surface.constants(problems.frame, mode.point[:, None])
    assert found["kappa"][0, 0] == pytest.approx(0.5, abs=0.15)


@pytest.mark.parametrize("hold", [False, True])
def test_draws_are_those_of_a_long_markov_chain(hold):
    """An independent sampler: random-walk Metropolis, long enough."""
    problems = problems_of(sweep(budgets=4))
    if hold:
        mean, deviation = (part[None] for part in separable(prior_of("public")))
        problems = problems._replace(mean=mean, deviation=deviation)
    free = problems.free[0]
    mode = mode_of(problems)
    draws = posterior.sample(problems, mode, 2000, 0)[0]
    rng = np.random.default_rng(2)
    root = np.linalg.cholesky(np.linalg.inv(mode.curvature[0]))
    chains, kept = np.repeat(mode.point, 64, axis=0), []
    density = posterior.log_density(problems, chains[None])[0]
    for step in range(6000):
        tried = chains + 0.6 * rng.standard_normal(chains.shape) * free @ root.T
        new = posterior.log_density(problems, tried[None])[0]
        accepted = np.log(rng.uniform(size=64)) < new - density
        chains[accepted], density[accepted] = tried[accepted], new[accepted]
        if step > 1000 and step % 20 == 0:
            kept.append(chains.copy())
    chain, draws = np.concatenate(kept)[:, free], draws[:, free]
    # In every direction, not along the coordinates alone: they are nearly collinear.
    ratios = np.linalg.eigvals(np.linalg.solve(np.cov(chain.T), np.cov(draws.T))).real
    assert 0.5 < ratios.min() < ratios.max() < 2.0
    deviation = chain.std(axis=0)
    assert (np.abs(draws.mean(axis=0) - chain.mean(axis=0)) < 0.35 * deviation).all()
    assert (np.abs(np.log(draws.std(axis=0) / deviation)) < 0.35).all()


def test_a_row_of_weight_zero_is_left_out():
    frame = sweep()
    weight = np.where(np.arange(len(frame)) < 20, 1.0, 0.0)
    wrong = frame.assign(loss=np.where(weight > 0, frame.loss, 99.0))
    some, all_of_few = mode_of(problems_of(wrong, weight)), mode_of(problems_of(frame[:20]))
    assert some.point == pytest.approx(all_of_few.point, rel=1e-6)


def test_a_held_coordinate_stays():
    frame = sweep()
    base = problems_of(frame)
    held = posterior.Problems.of(
        surface.SURFACE, base.inputs, base.log_loss, base.weight, [separable(prior_of("public"))]
    )
    mode = mode_of(held)
    draws = posterior.sample(held, mode, 100, 0)
    assert (draws[..., surface.KAPPA] == 0).all() and np.ptp(draws[..., surface.ALPHA]) > 0


def test_no_prior_is_overruled_by_no_run():
    """With hardly any prior, a table that says little has a posterior all the same."""
    problems = problems_of(sweep(budgets=2), prior="none")
    draws = posterior.sample(problems, mode_of(problems), 200, 0)
    assert np.isfinite(draws).all()


def test_the_public_prior_leaves_a_source_out():
    every, deviation = public_moments()
    without, _ = public_moments(("marin",))
    assert (every != without).all() and (deviation > 0).all()
    marin = next(source for source in SOURCES if source.name == "marin")
    closer = np.abs(every - np.array(marin.mean)) < np.abs(without - np.array(marin.mean))
    assert closer.all(), "the prior moves towards a source that it has seen"
    assert np.exp(every[LEARNED.index(surface.KAPPA)]) == pytest.approx(0.5, abs=0.1)
    with pytest.raises(laws.InputError, match="no source of the public prior is called 'marine'; did you mean 'marin'"):
        public_moments(("marine",))
    with pytest.raises(laws.InputError, match="needs three sources, and 0 are left"):
        public_moments(tuple(source.name for source in SOURCES))


def test_budgets_and_origins():
    frame = sweep()
    budget = budgets_of(np.log(frame.c.to_numpy()))
    assert budget.tolist() == np.repeat(range(6), 5).tolist()
    assert [int(rows.sum()) for rows in origins_of(budget, 3)] == [15, 20, 25]
    assert origins_of(budget[:9], 3) == []
    near = nearness(np.log(frame.n.to_numpy()), np.log(frame.loss.to_numpy()), budget, 4.0)
    assert np.bincount(budget, near) == pytest.approx(np.ones(6))
    assert sum(form.prior_weight for form in forms_of(UncertaintyConfig())) == pytest.approx(1)


@pytest.fixture(scope="module")
def coupled():
    return laws.load(sweep(), n="n", d="d", c="c").fit("chinchilla", resamples=50)


def test_the_fit_of_a_coupled_truth_says_so(coupled):
    kappa = coupled.report.model_average.kappa
    assert kappa.low < 0.5 < kappa.high < 1 and kappa.prior_low < kappa.low
    forms = coupled.report.model_average.forms
    assert sum(form.weight for form in forms) == pytest.approx(1) and forms[0].weight == 0
    assert sum(form.weight for form in forms if form.law == "coupled") > 0.9


def test_its_forecast_holds_where_the_law_misses(coupled):
    ahead = pd.DataFrame({"n": [3e9], "d": [6e10]})
    truth = true_loss(ahead)[0]
    (row,) = coupled.get_prediction(ahead).summary_frame().itertuples()
    assert row.mean_ci_lower < truth < row.mean_ci_upper
    assert abs(row.mean / truth - 1) < 0.01
    assert abs(coupled.predict(ahead)[0] / truth - 1) > 2 * abs(row.mean / truth - 1)


def test_the_forecast_is_the_median_and_lies_in_its_interval(coupled):
    forecast = coupled.forecast(compute=1e21)
    assert forecast.mean_interval[0] < forecast.value < forecast.mean_interval[1]
    split = forecast.split
    assert split.n_interval[0] < split.n < split.n_interval[1]
    assert 6 * split.n * split.d == pytest.approx(1e21, rel=1e-3)
    log_losses = coupled.predictor.allocation(1e21, draws=True).loss[:, 0]
    assert forecast.value == pytest.approx(np.median(log_losses), rel=1e-9)


def test_a_local_form_does_not_speak_for_small_runs(coupled):
    predictor = coupled.predictor
    share = lambda compute: predictor._votes({"c": np.array([compute])})[:, 0]
    local = np.array([form.locality > 0 for form in predictor.forms])
    assert share(1e20)[local].sum() == pytest.approx(share(1e22)[local].sum()), "beyond the runs nothing changes"
    assert share(1e18)[local].sum() < 0.1 * max(share(1e20)[local].sum(), 1e-9)


def test_it_is_read_back(coupled, tmp_path):
    again = laws.read_fit(coupled.save(tmp_path / "fit.json"))
    assert again.forecast(compute=1e21).interval == pytest.approx(coupled.forecast(compute=1e21).interval, rel=2e-3)
    assert again.report.model_average == coupled.report.model_average


def test_priors_by_name():
    runs = laws.load(sweep(), n="n", d="d", c="c")
    weak = runs.fit("chinchilla", resamples=20, prior="weak").report.model_average
    without = runs.fit("chinchilla", resamples=20, prior_without=["marin"]).report.model_average
    assert (weak.prior, weak.prior_without) == ("weak", ()) and without.prior_without == ("marin",)
    assert weak.kappa.prior_high > without.kappa.prior_high
    with pytest.raises(laws.InputError, match="no prior is called 'flat' .priors: public, weak, none."):
        runs.fit("chinchilla", prior="flat")


def test_a_law_with_held_constants_keeps_its_rivals():
    fit = laws.load(sweep(), n="n", d="d", c="c").fit("chinchilla", fixed={"alpha": 0.34}, resamples=20)
    assert fit.report.model_average.prior is None and fit.report.model_average.kappa is None


def test_rows_of_one_run_count_as_one_run():
    """Eight copies of every run, as rows of that run, are worth no more than the run."""
    frame = sweep().assign(run=[f"r{i}" for i in range(30)])
    copies = frame.loc[frame.index.repeat(8)].assign(step=np.tile(np.arange(8), 30))
    once, often = (
        laws.load(table, n="n", d="d", c="c", run="run", keep_copies=True).fit("chinchilla", resamples=20)
        for table in (frame, copies)
    )
    width = lambda fit: np.ptp(fit.forecast(compute=1e21).mean_interval)
    assert width(often) == pytest.approx(width(once), rel=0.15)
