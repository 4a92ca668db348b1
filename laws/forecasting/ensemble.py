"""The forms that the forecasts of a fit mix: surfaces under a prior, or a law with its rivals."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from laws.forecasting.frontier import frontier_member
from laws.forecasting.member import Member
from laws.forecasting.mixture import Rival
from laws.forecasting.model_averaging import model_average
from laws.forecasting.posterior import Prior
from laws.forecasting.surface_ensemble import is_surface, surface_members
from laws.inference.resampling import DesignFits


def members_of(
    fits: DesignFits,
    draws: Float[np.ndarray, "tables draws params"],
    errors: Callable[[], Float[np.ndarray, "tables draws rows"]],
    prior: Prior,
    seed: int,
    along_ladder: bool = False,
    by_surfaces: bool = False,
) -> list[Member]:
    """The law first, and the forms beside it; where these are surfaces, the law itself has a weight of zero.

    Args:
        fits: the law's fits.
        draws: its resampled constants.
        errors: gives errors as repetitions of the runs might have had them, with which rivals are resampled.
        prior: of the coupled surface.
        seed: of the draws of surfaces.
        along_ladder: whether the law is that of the frontier, of runs whose parameters and tokens are in step.
        by_surfaces: whether surfaces forecast in any case, where the law stands in for one that is not determined.
    """
    zero = np.zeros(len(fits.params))
    of_law = Member(fits.law.name, fits.law, fits.params, draws, zero, zero, zero)
    if along_ladder:
        weight = fits.weight / np.bincount(fits.run)[fits.run]  # the rows of one run count as one
        along = frontier_member(
            "along the ladder", fits.columns["c"], np.exp(fits.log_loss[0]), prior, fits.config, seed, weight
        )
        return [of_law, along]
    if not (by_surfaces or is_surface(fits)):
        return model_average(fits, draws, errors())
    return [of_law, *surface_members(fits, prior, seed)]


def rivals_of(members: list[Member], table: int = 0) -> tuple[Rival, ...]:
    """The forms beside the law itself, as a prediction needs them.

    Args:
        members: the law first.
        table: number of the table.
    """
    return tuple(
        Rival(
            label=form.label,
            law=form.law,
            constants=form.params[table],
            draws=form.draws[table],
            weight=float(form.weight[table]),
            noise=None if form.noise is None else form.noise[table],
            locality=form.locality,
        )
        for form in members[1:]
    )
