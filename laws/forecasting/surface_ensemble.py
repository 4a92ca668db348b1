"""Forecasts of loss over size and data: coupled and separable surfaces, fitted to all runs and to the largest ones.

A form is a surface and a locality p: rows count (C / C_max)^p, so that with p = 0 all count alike, and with p = 2 those
of a tenth of the largest compute one hundredth. Each form is fitted to the runs below each of the last budgets and
forecasts those above; its weight is its prior one times the density that it gave them. Runs near the best size of their
budget count most, as that is where forecasts are asked for. A local form speaks for the largest runs and beyond: below
them its weight falls as that of the rows does.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import softmax

from laws.base.uncertainty_config import UncertaintyConfig
from laws.data.grouping import separate_budgets
from laws.forecasting.member import Member
from laws.forecasting.posterior import Mode, Prior, Problems, log_predictive, modes, sample
from laws.forecasting.priors import separable
from laws.forecasting.surface import ALPHA, BETA, COORDINATES, DATA, SCALE, SIZE, Frame, constants, log_losses
from laws.inference.resampling import DesignFits
from laws.model.forms import LAWS

FEWEST_BUDGETS = 2  # below a forecast origin: one says nothing about how the loss falls with compute
FEWEST_ROWS = 8  # below a forecast origin: about as many as the surface has coordinates
DECADE_PARTS = 4  # without separate budgets, runs within a quarter of a decade of compute are one
STARTS = 12  # of the search for modes; the best start is shared by all fits of a surface
START_SPREAD = 0.7  # of the starts, in deviations of the prior
START_SCALE = 0.03  # of the errors at a start, in log loss: wide, so that no row is an outlier before it is fitted
START_LOCALITY = 0.5
ORIGIN_DRAWS, ORIGIN_ROUNDS = 400, 2  # of the posteriors behind a forecast origin
TOP_ROWS = 6  # the largest runs, which count in full in a local fit: about as many as a surface has coordinates
MOST_ROWS = 1024  # a larger table is thinned to so many rows, which then count for all


class SurfaceForm(NamedTuple):
    """A surface with its locality.

    Args:
        law: ``coupled`` or ``chinchilla``.
        locality: power p of (C / C_max) by which rows count.
        prior_weight: in the mixture before any backtest.
    """

    law: str
    locality: float
    prior_weight: float

    @property
    def label(self) -> str:
        """As it is printed."""
        return f"{self.law}, rows by C^{self.locality:g}" if self.locality else self.law


SURFACE_LAWS = ("chinchilla", "coupled")  # whose forecasts these forms make


def is_surface(fits: DesignFits) -> bool:
    """Whether forecasts under a law are those of the surfaces: none of its constants is held."""
    return fits.law.name in SURFACE_LAWS and not fits.law.fixed and fits.law.origin is None


def forms_of(config: UncertaintyConfig) -> tuple[SurfaceForm, ...]:
    """The forms of the mixture with their prior weights."""
    shares = np.array(config.locality_weights) / sum(config.locality_weights)
    surfaces = (("coupled", config.coupled_weight), ("chinchilla", 1 - config.coupled_weight))
    return tuple(
        SurfaceForm(law, locality, float(of_surface * share))
        for law, of_surface in surfaces
        for locality, share in zip(config.localities, shares, strict=True)
    )


def budgets_of(log_c: Float[np.ndarray, " rows"]) -> Int[np.ndarray, " rows"]:
    """Number of the budget of each row, rising with compute."""
    groups = separate_budgets(np.exp(log_c))
    if groups is None:
        groups = np.round(log_c / np.log(10) * DECADE_PARTS).astype(int)
    return np.unique(groups, return_inverse=True)[1].ravel()


def origins_of(budget: Int[np.ndarray, " rows"], most: int) -> list[Bool[np.ndarray, " rows"]]:
    """Rows below each of the last forecast origins.

    Args:
        budget: of each row.
        most: most origins.
    """
    below = [budget <= last for last in range(FEWEST_BUDGETS - 1, budget.max())]
    return [rows for rows in below if rows.sum() >= FEWEST_ROWS][-most:]


def nearness(
    log_n: Float[np.ndarray, " rows"],
    log_loss: Float[np.ndarray, " rows"],
    budget: Int[np.ndarray, " rows"],
    factor: float,
) -> Float[np.ndarray, " rows"]:
    """What each row counts in the score of a forecast: half at a size that is a factor away from the best of its budget.

    Args:
        log_n: log parameters.
        log_loss: measured log losses.
        budget: of each row.
        factor: in size.

    Returns:
        weights that add up to one in every budget.
    """
    out = np.zeros(len(log_n))
    for number in np.unique(budget):
        rows = np.flatnonzero(budget == number)
        best = rows[np.argmin(log_loss[rows])]
        out[rows] = 1 / (1 + ((log_n[rows] - log_n[best]) / np.log(factor)) ** 2)
        out[rows] /= out[rows].sum()
    return out


class _Rows(NamedTuple):
    """The rows of some tables that share a design, thinned where they are many."""

    log_n: Float[np.ndarray, " rows"]
    log_d: Float[np.ndarray, " rows"]
    log_c: Float[np.ndarray, " rows"]
    log_loss: Float[np.ndarray, "tables rows"]
    weight: Float[np.ndarray, " rows"]

    @classmethod
    def of(cls, fits: DesignFits) -> _Rows:
        log_n, log_d = np.log(fits.columns["n"]), np.log(fits.columns["d"])
        log_c = np.log(fits.columns["c"]) if "c" in fits.columns else np.log(6) + log_n + log_d
        weight = fits.weight / np.bincount(fits.run)[fits.run]  # the rows of one run count as one
        rows = np.arange(len(log_n))
        if len(rows) > MOST_ROWS:
            rows = np.sort(np.random.default_rng(0).choice(rows, MOST_ROWS, replace=False))
            weight = weight * (weight.sum() / weight[rows].sum())
        return cls(log_n[rows], log_d[rows], log_c[rows], fits.log_loss[:, rows], weight[rows])


def _start(rows: _Rows, prior: Prior) -> tuple[Frame, Float[np.ndarray, " coordinates"]]:
    """A mode of the mean of the tables, from several starts: where all fits of a surface begin."""
    mean = rows.log_loss.mean(axis=0, keepdims=True)
    weight = rows.weight * np.exp(START_LOCALITY * (rows.log_c - rows.log_c.max()))
    step = START_SPREAD * np.random.default_rng(0).standard_normal((STARTS, len(COORDINATES)))
    step[0] = 0.0
    starts = prior.mean + step * np.minimum(prior.deviation, 1.0)
    starts[:, SCALE] = np.log(START_SCALE)
    shape = (STARTS, rows.log_loss.shape[1])
    problems = Problems.of(
        rows.log_n, rows.log_d, np.broadcast_to(mean, shape), np.broadcast_to(weight, shape), [prior] * STARTS
    )
    mode = modes(problems, starts)
    return problems.frame.take(np.array([0])), mode.point[np.argmax(mode.log_density)]


def _moved(point: Float[np.ndarray, " coordinates"], of: Frame, to: Frame) -> Float[np.ndarray, "problems coordinates"]:
    """The coordinates of one surface in other frames, its floor left as it is relative to the least loss."""
    out = np.tile(point, (len(to.log_n), 1))
    lower = of.log_loss - to.log_loss
    out[:, SIZE] += lower - np.exp(point[ALPHA]) * (to.log_n - of.log_n)
    out[:, DATA] += lower - np.exp(point[BETA]) * (to.log_d - of.log_d)
    return out


def _best_modes(problems: Problems, starts: list[Float[np.ndarray, "problems coordinates"]]) -> Mode:
    """The higher of the modes that the starts lead to."""
    first, *others = [modes(problems, start) for start in starts]
    for other in others:
        higher = other.log_density > first.log_density
        for kept, new in zip(first, other, strict=True):
            kept[higher] = new[higher]
    return first


def surface_members(fits: DesignFits, prior: Prior, seed: int) -> list[Member]:
    """The forms fitted to tables that share a design, and weighed by their backtests.

    Args:
        fits: of a law of n and d; its rows, weights, runs and settings are used.
        prior: of the coupled surface.
        seed: of the draws.
    """
    config, rows = fits.config, _Rows.of(fits)
    forms, tables = forms_of(config), len(rows.log_loss)
    budget = budgets_of(rows.log_c)
    origins = origins_of(budget, config.surface_origins)
    masks = [np.ones(len(rows.log_n), bool), *origins]
    priors = {"coupled": prior, "chinchilla": separable(prior)}
    starts = {law: _start(rows, priors[law]) for law in priors}
    fitted: list[tuple[Problems, Mode]] = []  # of each form, tables times masks
    for form in forms:
        weight = np.array([mask * rows.weight * np.exp(form.locality * _below_top(rows.log_c, mask)) for mask in masks])
        problems = Problems.of(
            rows.log_n,
            rows.log_d,
            np.repeat(rows.log_loss, len(masks), axis=0),
            np.tile(weight, (tables, 1)),
            [priors[form.law]] * (tables * len(masks)),
        )
        own = np.tile(priors[form.law].mean, (len(problems.mean), 1))
        own[:, SCALE] = np.log(START_SCALE)
        frame, point = starts[form.law]
        fitted.append((problems, _best_modes(problems, [_moved(point, frame, problems.frame), own])))
    score = np.stack([_score(rows, budget, masks, *fit, config, seed) for fit in fitted], axis=1)
    weight = softmax(np.log([form.prior_weight for form in forms]) + score, axis=1)
    return [
        _member(form, *fit, len(masks), score[:, k], weight[:, k], config, seed)
        for k, (form, fit) in enumerate(zip(forms, fitted, strict=True))
    ]


def _below_top(log_c: Float[np.ndarray, " rows"], mask: Bool[np.ndarray, " rows"]) -> Float[np.ndarray, " rows"]:
    """Log compute below that of the ``TOP_ROWS`` largest rows; zero for these, so that a local fit has enough rows."""
    largest = np.sort(log_c[mask])[::-1]
    return np.minimum(log_c - largest[min(TOP_ROWS, len(largest)) - 1], 0.0)


def _score(
    rows: _Rows,
    budget: Int[np.ndarray, " rows"],
    masks: list[Bool[np.ndarray, " rows"]],
    problems: Problems,
    mode: Mode,
    config: UncertaintyConfig,
    seed: int,
) -> Float[np.ndarray, " tables"]:
    """Sum over origins and budgets beyond of the mean log density of the runs, near ones first.

    Args:
        rows: of the tables.
        budget: of each row.
        masks: all rows, then those below each origin.
        problems: tables times masks.
        mode: of each.
        config: settings.
        seed: of the draws.
    """
    tables, count = len(rows.log_loss), len(masks)
    total = np.zeros(tables)
    near = [nearness(rows.log_n, of_table, budget, config.near_factor) for of_table in rows.log_loss]
    for k, below in enumerate(masks[1:], start=1):
        which = np.arange(tables) * count + k
        of_origin, beyond = problems.take(which), ~below
        draws = sample(of_origin, Mode(*(part[which] for part in mode)), ORIGIN_DRAWS, seed, ORIGIN_ROUNDS)
        predicted = log_losses(of_origin.frame, draws, rows.log_n[beyond], rows.log_d[beyond])
        density = log_predictive(predicted, draws[..., SCALE], rows.log_loss[:, beyond])
        total += np.sum(np.maximum(density, np.log(config.least_density)) * np.array(near)[:, beyond], axis=1)
    return total


def _member(
    form: SurfaceForm,
    problems: Problems,
    mode: Mode,
    masks: int,
    score: Float[np.ndarray, " tables"],
    weight: Float[np.ndarray, " tables"],
    config: UncertaintyConfig,
    seed: int,
) -> Member:
    """A form's fit to all rows, sampled.

    Args:
        form: which.
        problems: tables times masks, of which the first of each table holds all rows.
        mode: of each.
        masks: how many problems a table has.
        score: of the backtests.
        weight: in the mixture.
        config: settings.
        seed: of the draws.
    """
    which = np.arange(0, len(problems.mean), masks)
    whole = problems.take(which)
    sampled = sample(whole, Mode(*(part[which] for part in mode)), config.surface_draws, seed)
    in_order = lambda points: np.stack([constants(whole.frame, points)[name] for name in LAWS[form.law].names], axis=-1)
    return Member(
        label=form.label,
        law=LAWS[form.law],
        params=in_order(mode.point[which][:, None])[:, 0],
        draws=in_order(sampled),
        score=score,
        extrapolation_inflation=np.full(len(which), config.surface_inflation),
        weight=weight,
        noise=np.exp(sampled[..., SCALE]),
        locality=form.locality,
    )
