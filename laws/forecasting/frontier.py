"""The law of the frontier, loss over compute along the best runs, under a prior: L = E + k C^-p, the law ``power_offset_c``.

Where parameters and tokens both rise along the best split, the coupled surface falls as C^-p with 1 / p = 1 / alpha +
1 / beta (Hoffmann et al. 2022, equation 4, for the separable one), so that the surface's prior gives that of p.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from laws.base.uncertainty_config import UncertaintyConfig
from laws.forecasting.family import Family, Frame, Inputs, Points, column
from laws.forecasting.member import Member
from laws.forecasting.posterior import Mode, Prior, Problems, modes, sample
from laws.forecasting.surface import ALPHA, BETA, FLOOR as SURFACE_FLOOR, SCALE as SURFACE_SCALE, SIZE
from laws.forecasting.surface_modes import START_SCALE, START_SPREAD, STARTS
from laws.model.forms import LAWS

# ``term`` is what k C^-p adds at the centre of the runs, and ``floor`` is E, both relative to the least loss.
COORDINATES = ("log exponent", "logit floor", "log term", "log scale")
EXPONENT, FLOOR, TERM, SCALE = range(len(COORDINATES))
LAW = "power_offset_c"
FEWEST_POINTS = 4  # of a frontier: three determine its curve


def _parts(frame: Frame, points: Points, inputs: Inputs) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Log compute from the centre, the floor, and what is above it."""
    x = inputs[0] - frame.centre[:, 0, None, None]
    floor = 1 / (1 + np.exp(-column(points, FLOOR)))
    return x, floor, np.exp(column(points, TERM) - np.exp(column(points, EXPONENT)) * x)


def log_losses(frame: Frame, points: Points, inputs: Inputs) -> Float[np.ndarray, "problems samples rows"]:
    """Predicted log losses.

    Args:
        frame: of the problems.
        points: coordinates, some samples a problem.
        inputs: log compute of the rows.
    """
    _, floor, above = _parts(frame, points, inputs)
    return frame.log_loss[:, None, None] + np.log(floor + above)


def slopes(frame: Frame, points: Points, inputs: Inputs) -> Float[np.ndarray, "problems samples rows coordinates"]:
    """Derivatives of the predicted log losses in the coordinates; that in the scale is zero.

    Args:
        frame: of the problems.
        points: coordinates, some samples a problem.
        inputs: log compute of the rows.
    """
    x, floor, above = _parts(frame, points, inputs)
    share = above / (floor + above)
    out = np.zeros((*share.shape, len(COORDINATES)))
    out[..., EXPONENT] = -share * np.exp(column(points, EXPONENT)) * x
    out[..., FLOOR] = floor * (1 - floor) / (floor + above)
    out[..., TERM] = share
    return out


FRONTIER = Family(COORDINATES, log_losses, slopes)


def constants(frame: Frame, points: Points) -> dict[str, Float[np.ndarray, "problems samples"]]:
    """Constants of the law ``power_offset_c``: k, E, p.

    Args:
        frame: of the problems.
        points: coordinates, some samples a problem.
    """
    p, log_loss = np.exp(points[..., EXPONENT]), frame.log_loss[:, None]
    return {
        "k": np.exp(log_loss + points[..., TERM] + p * frame.centre[:, :1]),
        "E": np.exp(log_loss) / (1 + np.exp(-points[..., FLOOR])),
        "p": p,
    }


def frontier_prior(prior: Prior) -> Prior:
    """Prior of the frontier's coordinates from that of the coupled surface.

    Args:
        prior: of the surface.
    """
    alpha, beta = np.exp(prior.mean[[ALPHA, BETA]])
    share = beta / (alpha + beta)  # of log alpha in log p
    spread = np.hypot(share * prior.deviation[ALPHA], (1 - share) * prior.deviation[BETA])
    mean = [np.log(alpha * share), prior.mean[SURFACE_FLOOR], prior.mean[SIZE] + np.log(2), prior.mean[SURFACE_SCALE]]
    deviation = [spread, *prior.deviation[[SURFACE_FLOOR, SIZE, SURFACE_SCALE]]]
    return Prior(np.array(mean), np.array(deviation))


def frontier_member(
    label: str,
    c: Float[np.ndarray, " points"],
    loss: Float[np.ndarray, " points"],
    prior: Prior,
    config: UncertaintyConfig,
    seed: int,
    run_weight: Float[np.ndarray, " points"] | None = None,
) -> Member:
    """The law of a frontier fitted to points of compute and loss, and sampled.

    Args:
        label: of the form.
        c: training FLOPs.
        loss: losses.
        prior: of the coupled surface.
        config: its ``surface_draws`` and ``surface_inflation``.
        seed: of the draws.
        run_weight: what each point counts; one by default.
    """
    inputs, own = np.log(c)[None], frontier_prior(prior)
    weight = np.ones(len(c)) if run_weight is None else run_weight
    tiled = lambda values: np.tile(values, (STARTS, 1))
    problems = Problems.of(FRONTIER, inputs, tiled(np.log(loss)), tiled(weight), [own] * STARTS)
    step = START_SPREAD * np.random.default_rng(0).standard_normal((STARTS, len(COORDINATES)))
    step[0] = 0.0
    starts = own.mean + step * np.minimum(own.deviation, 1.0)
    starts[:, SCALE] = np.log(START_SCALE)
    mode = modes(problems, starts)
    best = np.array([np.argmax(mode.log_density)])
    problem, mode = problems.take(best), Mode(*(part[best] for part in mode))
    draws = sample(problem, mode, config.surface_draws, seed)
    law = LAWS[LAW]
    in_order = lambda points: np.stack([constants(problem.frame, points)[name] for name in law.names], axis=-1)
    return Member(
        label=label,
        law=law,
        params=in_order(mode.point[:, None])[:, 0],
        draws=in_order(draws),
        score=np.array([np.nan]),
        extrapolation_inflation=np.array([config.surface_inflation]),
        weight=np.ones(1),
        noise=np.exp(draws[..., SCALE]),
    )
