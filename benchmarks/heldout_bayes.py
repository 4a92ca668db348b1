"""A contender with priors: the additive law sampled by numpyro."""

from __future__ import annotations

import importlib
from functools import cache
from typing import Any

import numpy as np

from benchmarks import heldout_power_sums as power_sums
from benchmarks.heldout_cases import Points, Rows
from benchmarks.heldout_forecasts import RunForecasts, quantile_ends
from laws.base.x64 import float64

CHAINS, WARM_UP, SAMPLES = 2, 400, 400
ROWS_STEP = 64  # tables are padded to multiples of this, so that few shapes are compiled
STUDENT_DOF = 4.0  # of the errors of log loss
NOISE_DRAWS = 10
SEED = 0


@cache
def _sampler() -> Any:
    """NUTS over the additive law; weak priors around (alpha, beta) 0.35, half of the least loss irreducible, terms of a
    fifth of it at the centre of the runs, and noise of 0.5%."""
    numpyro = importlib.import_module("numpyro")
    infer, jnp = importlib.import_module("numpyro.infer"), importlib.import_module("jax.numpy")
    jax, dist = importlib.import_module("jax"), numpyro.distributions

    def model(log_n, log_d, log_loss, known):
        exponents = numpyro.sample("log_exponents", dist.Normal(np.log(0.35), 0.5).expand([2]).to_event(1))
        terms = numpyro.sample("log_terms", dist.Normal(np.log(0.2), 1.5).expand([2]).to_event(1))
        floor = numpyro.sample("logit_floor", dist.Normal(0.0, 1.5))
        noise = jnp.exp(numpyro.sample("log_noise", dist.Normal(np.log(0.005), 1.5)))
        slopes = jnp.exp(exponents)
        each = [
            jnp.full_like(log_n, jax.nn.log_sigmoid(floor)),
            terms[0] - slopes[0] * log_n,
            terms[1] - slopes[1] * log_d,
        ]
        predicted = jax.nn.logsumexp(jnp.stack(each), axis=0)
        errors = dist.StudentT(STUDENT_DOF, predicted, noise)
        numpyro.factor("loss", jnp.sum(jnp.where(known, errors.log_prob(log_loss), 0.0)))

    return infer.MCMC(
        infer.NUTS(model),
        num_warmup=WARM_UP,
        num_samples=SAMPLES,
        num_chains=CHAINS,
        chain_method="sequential",
        progress_bar=False,
        jit_model_args=True,
    )


def nuts(rows: Rows, points: Points) -> RunForecasts:
    """Posterior of the additive law under weak priors, errors of log loss Student's t with four degrees of freedom."""
    jax = importlib.import_module("jax")
    centre, least = (np.log(rows.n).mean(), np.log(rows.d).mean()), np.log(rows.loss.min())
    padding = -len(rows) % ROWS_STEP
    padded = [np.pad(values, (0, padding)) for values in (np.log(rows.n) - centre[0], np.log(rows.d) - centre[1])]
    log_loss = np.pad(np.log(rows.loss) - least, (0, padding))
    with float64():
        sampler = _sampler()
        sampler.run(jax.random.key(SEED), *padded, log_loss, np.arange(len(log_loss)) < len(rows))
        drawn = {name: np.asarray(values) for name, values in sampler.get_samples().items()}
    floor = -np.logaddexp(0.0, -drawn["logit_floor"])
    params = np.c_[floor, drawn["log_terms"], np.exp(drawn["log_exponents"])]
    logs = np.stack([np.log(points.n) - centre[0], np.log(points.d) - centre[1]])
    predicted = least + np.stack([power_sums.log_sum(one, logs) for one in params])
    rng = np.random.default_rng(SEED)
    errors = rng.standard_t(STUDENT_DOF, (NOISE_DRAWS, *predicted.shape)) * np.exp(drawn["log_noise"])[:, None]
    draws = np.exp(predicted + errors).reshape(-1, len(points))
    return RunForecasts(np.exp(np.median(predicted, axis=0)), quantile_ends(draws))
