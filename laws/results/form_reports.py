"""Forms of a mixture as a report states them, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from laws.forecasting.frontier import LAW
from laws.forecasting.member import Member
from laws.forecasting.mixture import Predictor, Rival
from laws.model.forms import LAWS
from laws.model.law import Law
from laws.results.report_parts import RivalReport, finite

LEAST_SAMPLES, SAMPLES_OF_ALL = 8, 1000  # samples of a surface in a report: at least, and for all surfaces by weight
SAMPLE_DIGITS = 12  # significant digits of the resampled constants in a report


def rival_report(form: Member, is_law: bool = False) -> RivalReport:
    """A form as it is reported, with as many samples as its weight asks for.

    Args:
        form: of one table.
        is_law: whether it is the fitted law, whose samples are the report's own.
    """
    weight, draws = float(form.weight[0]), form.draws[0]
    if form.noise is not None:
        draws = draws[: max(LEAST_SAMPLES, int(np.ceil(weight * SAMPLES_OF_ALL)))]
    return RivalReport(
        label=form.label,
        law=form.law.name,
        weight=weight,
        score=finite(form.score[0]),
        params=dict(zip(form.law.names, map(float, form.params[0]), strict=True)),
        samples={} if is_law else samples_of(form.law, draws),
        noise=() if form.noise is None else _rounded(form.noise[0, : len(draws)]),
        locality=form.locality,
    )


def _rounded(values: Float[np.ndarray, " draws"]) -> tuple[float, ...]:
    """Numbers to ``SAMPLE_DIGITS`` significant digits."""
    return tuple(float(f"{value:.{SAMPLE_DIGITS}g}") for value in values)


def samples_of(law: Law, params: Float[np.ndarray, "draws params"]) -> dict[str, tuple[float, ...]]:
    """Resampled constants by name, to ``SAMPLE_DIGITS`` significant digits.

    Args:
        law: whose constants they are.
        params: draws.
    """
    return {name: _rounded(params[:, i]) for i, name in enumerate(law.names)}


def by_row(law: Law, constants: Mapping[str, Any]) -> Float[np.ndarray, "*draws params"]:
    """Constants by name as rows in the order of the law.

    Args:
        law: whose constants they are.
        constants: name -> number, or -> draws.
    """
    return np.array([constants[name] for name in law.names], np.float64).T


def rival_of(form: RivalReport) -> Rival:
    """A form as predictions need it."""
    law = LAWS[form.law]
    draws = by_row(law, form.samples).reshape(-1, len(law.names))
    noise = np.array(form.noise) if form.noise else None
    return Rival(form.label, law, by_row(law, form.params), draws, form.weight, noise, form.locality)


def frontier_predictor(surfaces: Predictor, forms: tuple[RivalReport, ...]) -> Predictor:
    """What forecasts along the frontier need.

    Args:
        surfaces: predictor of the fit, whose level, seed and settings are used.
        forms: of the frontier, at least one.
    """
    rivals = tuple(map(rival_of, forms))
    return Predictor(
        law=LAWS[LAW],
        constants=rivals[0].constants,
        draws=rivals[0].draws,
        cost=surfaces.cost,
        noise=surfaces.noise,
        ranges={"c": surfaces.ranges["c"]},
        level=surfaces.level,
        seed=surfaces.seed,
        rivals=rivals,
        extrapolation_inflation=surfaces.extrapolation_inflation,
        config=surfaces.config,
    )
