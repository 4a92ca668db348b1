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
from laws.forecasting.design_rows import Rows, below_top, budgets_of, nearness, origins_of
from laws.forecasting.member import Member
from laws.forecasting.posterior import Mode, Prior, Problems, log_predictive, sample
from laws.forecasting.priors import separable
from laws.forecasting.surface import SCALE, SURFACE, constants, log_losses
from laws.forecasting.surface_modes import START_SCALE, best_modes, moved, shared_start
from laws.inference.resampling import DesignFits
from laws.model.forms import LAWS

ORIGIN_DRAWS, ORIGIN_ROUNDS = 400, 2  # of the posteriors behind a forecast origin


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


def surface_members(fits: DesignFits, prior: Prior, seed: int) -> list[Member]:
    """The forms fitted to tables that share a design, and weighed by their backtests.

    Args:
        fits: of a law of n and d; its rows, weights, runs and settings are used.
        prior: of the coupled surface.
        seed: of the draws.
    """
    config, rows = fits.config, Rows.of(fits)
    forms, tables = forms_of(config), len(rows.log_loss)
    budget = budgets_of(rows.log_c)
    origins = origins_of(budget, config.surface_origins)
    masks = [np.ones(len(rows.log_n), bool), *origins]
    priors = {"coupled": prior, "chinchilla": separable(prior)}
    starts = {law: shared_start(rows, priors[law]) for law in priors}
    fitted: list[tuple[Problems, Mode]] = []  # of each form, tables times masks
    for form in forms:
        weight = np.array([mask * rows.weight * np.exp(form.locality * below_top(rows.log_c, mask)) for mask in masks])
        problems = Problems.of(
            SURFACE,
            rows.inputs,
            np.repeat(rows.log_loss, len(masks), axis=0),
            np.tile(weight, (tables, 1)),
            [priors[form.law]] * (tables * len(masks)),
        )
        own = np.tile(priors[form.law].mean, (len(problems.mean), 1))
        own[:, SCALE] = np.log(START_SCALE)
        frame, point = starts[form.law]
        fitted.append((problems, best_modes(problems, [moved(point, frame, problems.frame), own])))
    score = np.stack([_score(rows, budget, masks, *fit, config, seed) for fit in fitted], axis=1)
    weight = softmax(np.log([form.prior_weight for form in forms]) + score, axis=1)
    return [
        _member(form, *fit, len(masks), score[:, k], weight[:, k], config, seed)
        for k, (form, fit) in enumerate(zip(forms, fitted, strict=True))
    ]


def _score(
    rows: Rows,
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
        predicted = log_losses(of_origin.frame, draws, rows.inputs[:, beyond])
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
