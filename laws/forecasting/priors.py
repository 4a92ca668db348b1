"""Priors of the coupled surface: weakly informative ones, and what published tables have in common.

The public prior is the empirical Bayes summary of a hierarchical model: each source's exponents, floor and coupling are
drawn from one normal distribution, whose mean and variance are estimated from ``SOURCES`` (Morris 1983, JASA 78). A table
is never its own prior: leave its source out.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import numpy as np

from laws.base.errors import InputError, nearest
from laws.forecasting.posterior import Prior
from laws.forecasting.surface import ALPHA, BETA, DATA, FLOOR, KAPPA, SCALE, SIZE

PriorName = Literal["public", "weak", "none"]

# Coordinate -> mean and standard deviation. An exponent around 0.35 to within a factor 1.6; a floor between a quarter and
# nine tenths of the least loss; either term around a fifth of it, and errors around 0.5%, to within a factor 4.5.
WEAK = {
    ALPHA: (np.log(0.35), 0.5),
    BETA: (np.log(0.35), 0.5),
    FLOOR: (0.5, 1.5),
    SIZE: (np.log(0.2), 1.5),
    DATA: (np.log(0.2), 1.5),
    KAPPA: (0.0, 0.45),
    SCALE: (np.log(0.005), 1.5),
}
FLAT = 10.0  # standard deviation of every coordinate without a prior: a factor e^10 either way
LEARNED = (ALPHA, BETA, FLOOR, KAPPA)  # coordinates of the public prior; the others stay weak
LEAST_SPREAD = 0.1  # between sources: so few of them do not show a smaller one
ROUNDS = 200  # of the estimate of mean and variance


class SourceSummary(NamedTuple):
    """Posterior of the learned coordinates of one source under the weak prior, all its rows counted alike.

    Args:
        name: of the source.
        reference: where its runs are published.
        tables: how many tables it has.
        mean: of log alpha, log beta, logit of the floor and log kappa; over its tables.
        deviation: posterior standard deviations.
    """

    name: str
    reference: str
    tables: int
    mean: tuple[float, float, float, float]
    deviation: tuple[float, float, float, float]


# python -m benchmarks.public_prior
SOURCES = (
    SourceSummary(
        "chinchilla",
        "arXiv 2203.15556 and 2404.10102",
        3,
        (-1.066, -1.269, 1.312, -0.557),
        (0.057, 0.057, 0.105, 0.066),
    ),
    SourceSummary(
        "data_constrained", "arXiv 2305.16264", 1, (-1.236, -1.146, 1.195, -0.913), (0.149, 0.106, 0.182, 0.176)
    ),
    SourceSummary("gemstones", "arXiv 2502.06857", 1, (-1.305, -0.983, 1.06, -0.54), (0.236, 0.371, 0.517, 0.349)),
    SourceSummary("llama_3", "arXiv 2407.21783", 1, (-0.894, -1.253, 2.281, -0.615), (0.032, 0.024, 0.04, 0.033)),
    SourceSummary(
        "marin",
        "arXiv 2603.22339",
        3,
        (-1.034, -1.616, 0.562, -0.715),
        (0.145, 0.142, 0.291, 0.129),
    ),
    SourceSummary("misfitting", "arXiv 2502.18969", 1, (-0.791, -0.65, 1.395, -0.416), (0.052, 0.029, 0.078, 0.036)),
    SourceSummary("refinedweb", "arXiv 2406.19146", 5, (-1.311, -0.674, 1.199, -0.52), (0.062, 0.053, 0.116, 0.082)),
    SourceSummary("ladder", "arXiv 2412.04403", 1, (-1.806, -1.957, -0.025, -1.528), (0.163, 0.111, 0.344, 0.157)),
    SourceSummary("overtraining", "arXiv 2403.08540", 1, (-1.281, -1.271, 1.095, 0.387), (0.076, 0.108, 0.132, 0.339)),
)


def public_moments(without: tuple[str, ...] = ()) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of the learned coordinates of a new source.

    Args:
        without: names of sources that are left out.

    Raises:
        InputError: a source is unknown, or fewer than three are left.

    Example:
        >>> mean, deviation = public_moments()
        >>> np.exp(mean[[0, 1, 3]]).round(1)  # alpha, beta, kappa
        array([0.3, 0.3, 0.5])
    """
    names = [source.name for source in SOURCES]
    for name in without:
        if name not in names:
            raise InputError(
                f"no source of the public prior is called '{name}'{nearest(name, names)} ({', '.join(names)})"
            )
    kept = [source for source in SOURCES if source.name not in without]
    if len(kept) < 3:
        raise InputError(f"the public prior needs three sources, and {len(kept)} are left")
    mean = np.array([source.mean for source in kept])
    noise = np.array([source.deviation for source in kept]) ** 2
    between = np.full(mean.shape[1], LEAST_SPREAD**2)
    for _ in range(ROUNDS):
        weight = 1 / (between + noise)
        centre = np.sum(weight * mean, axis=0) / weight.sum(axis=0)
        moment = np.sum(weight**2 * ((mean - centre) ** 2 - noise), axis=0) / np.sum(weight**2, axis=0)
        between = np.maximum(moment, LEAST_SPREAD**2)
    return centre, np.sqrt(between + 1 / weight.sum(axis=0))


def prior_of(name: PriorName, without: tuple[str, ...] = ()) -> Prior:
    """The prior of all coordinates.

    Args:
        name: ``weak``, ``public`` or ``none``.
        without: sources that the public prior leaves out.

    Raises:
        InputError: there is no such prior, or no such source.
    """
    if name not in get_args(PriorName):
        raise InputError(f"no prior is called '{name}' (priors: {', '.join(get_args(PriorName))})")
    mean, deviation = np.array([WEAK[i] for i in sorted(WEAK)]).T
    if name == "none":
        return Prior(mean, np.full(len(mean), FLAT))
    if name == "public":
        mean[list(LEARNED)], deviation[list(LEARNED)] = public_moments(without)
    return Prior(mean, deviation)


def separable(prior: Prior) -> Prior:
    """The same with kappa held at one."""
    mean, deviation = prior.mean.copy(), prior.deviation.copy()
    mean[KAPPA], deviation[KAPPA] = 0.0, 0.0
    return Prior(mean, deviation)
