"""Coordinates in which surfaces are sampled: inverse, volume, and draws where parameters and tokens are nearly in step."""

import numpy as np
import pytest

from laws.estimation.estimate import log_predictions
from laws.forecasting import posterior, surface
from laws.forecasting.priors import prior_of, separable
from laws.forecasting.surface_sampling import from_sampling, to_sampling
from laws.model.forms import LAWS

TRUTH = {"A": 406.4, "B": 410.7, "E": 1.69, "alpha": 0.34, "beta": 0.28}
NOISE = 0.003
CHAINS, STEPS, BURN_IN, THINNING = 128, 24_000, 6_000, 25  # two chains of other seeds differ by up to 15% in width


def points(count=40):
    prior = prior_of("public")
    return prior.mean + prior.deviation * np.random.default_rng(0).standard_normal((1, count, len(prior.mean)))


def test_there_and_back():
    some = points()
    back, log_volume = from_sampling(to_sampling(some))
    assert back == pytest.approx(some, rel=1e-9, abs=1e-9) and np.isfinite(log_volume).all()


def test_the_volume_is_that_of_finite_differences():
    sampled, step = to_sampling(points()), 1e-6
    columns = [
        (from_sampling(sampled + shift)[0] - from_sampling(sampled - shift)[0]) / (2 * step)
        for shift in step * np.eye(sampled.shape[2])
    ]
    _, expected = np.linalg.slogdet(np.stack(columns, axis=-1))
    assert from_sampling(sampled)[1] == pytest.approx(expected, abs=1e-6)


def test_no_point_has_its_floor_above_the_least_loss():
    sampled = to_sampling(points(1))
    sampled[..., 0] = 1.0  # a loss at the centre e times the least, of which the floor is more than a half
    sampled[..., 1] = 1.0
    assert from_sampling(sampled)[1] == -np.inf


def nearly_in_step(spread, runs=8):
    """Runs along a line, log(D / N) off it by about half of ``spread`` either way; parameters, tokens and losses."""
    rng = np.random.default_rng(0)
    c = np.geomspace(1e18, 1e20, runs)
    n = np.sqrt(c / 120) * np.exp(spread / 2 * np.resize([1.0, -1.0], runs) * rng.uniform(0.8, 1.2, runs))
    law = LAWS["chinchilla"]
    params = np.array([[TRUTH[name] for name in law.names]])
    log_loss = log_predictions(law, params, {"n": n, "d": c / (6 * n)})[0] + NOISE * rng.standard_normal(runs)
    return np.log([n, c / (6 * n)]), log_loss


def long_chain(problems, mode):
    """Differential evolution Markov chains (ter Braak 2006) in the priors' own coordinates: an independent sampler."""
    rng, free = np.random.default_rng(1), problems.free[0]
    chains = mode.point + 0.3 * rng.standard_normal((CHAINS, len(free))) * free
    density, kept = posterior.log_density(problems, chains[None])[0], []
    for step in range(STEPS):
        order = rng.permutation(CHAINS)
        these, others = order[: CHAINS // 2], order[CHAINS // 2 :]
        length = 1.0 if rng.uniform() < 0.1 else 2.38 / np.sqrt(2 * free.sum()) * rng.uniform(0.3, 1.1)
        first, second = (chains[rng.choice(others, len(these))] for _ in range(2))
        tried = chains[these] + length * (first - second) + 1e-5 * rng.standard_normal(first.shape) * free
        new = posterior.log_density(problems, tried[None])[0]
        accepted = np.log(rng.uniform(size=len(these))) < new - density[these]
        chains[these[accepted]], density[these[accepted]] = tried[accepted], new[accepted]
        if step >= BURN_IN and step % THINNING == 0:
            kept.append(chains.copy())
    return np.concatenate(kept)


@pytest.mark.parametrize(("spread", "hold"), [(0.1, False), (0.2, True)])
def test_draws_reach_as_far_as_a_long_chain_where_the_split_is_hardly_identified(spread, hold):
    prior = separable(prior_of("public")) if hold else prior_of("public")
    inputs, log_loss = nearly_in_step(spread)
    problems = posterior.Problems.of(surface.SURFACE, inputs, log_loss[None], np.ones((1, len(log_loss))), [prior])
    start = problems.mean.copy()
    start[:, surface.SCALE] = np.log(0.03)
    mode = posterior.modes(problems, start)
    chain = long_chain(problems, mode)
    draws = np.concatenate([posterior.sample(problems, mode, 400, seed)[0] for seed in range(5)])
    free = problems.free[0]
    for low, high, within in ((0.25, 0.75, 0.2), (0.1, 0.9, 0.25)):
        widths = [np.diff(np.quantile(values[:, free], [low, high], axis=0), axis=0)[0] for values in (draws, chain)]
        assert np.log(widths[0] / widths[1]) == pytest.approx(0.0, abs=within)
    assert np.median(draws, axis=0)[free] == pytest.approx(
        np.median(chain, axis=0)[free], abs=0.15 * chain.std(axis=0)[free].max()
    )


def test_a_coordinate_that_the_transformation_moves_cannot_be_held():
    prior = prior_of("public")
    prior.deviation[surface.ALPHA] = 0.0
    inputs, log_loss = nearly_in_step(0.2)
    problems = posterior.Problems.of(surface.SURFACE, inputs, log_loss[None], np.ones((1, len(log_loss))), [prior])
    mode = posterior.modes(problems, problems.mean)
    with pytest.raises(ValueError, match="holds a coordinate"):
        posterior.sample(problems, mode, 50, 0)
