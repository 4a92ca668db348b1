"""Uncertainty of the constants and of what is derived: profile deviance, and density of the resamples."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Float
from scipy.interpolate import PchipInterpolator
from scipy.special import stdtrit

from laws.inference.allocation import derive
from laws.plotting.missing import MissingFigureData
from laws.results.results import FitResult

DERIVED = ("a", "n_opt", "loss_opt")  # profiles of what is derived; the rest follows from them
ABOVE = 1.35  # how much of a profile is drawn, in multiples of the level's cut
FACTOR = 3.0  # a quantity whose drawn ends differ by more than this factor has a logarithmic axis
FINE = 120  # points of a profile's line
PAIRS = 3  # pairs of constants, at most
FEWEST_DRAWS = 30  # resamples of which a density is drawn
DENSITY_POINTS = 80  # of a density in each direction
SHOWN = (0.005, 0.995)  # quantiles of the resamples that a panel shows
MARGIN = 0.12  # around what is shown, as a share of it
MARGIN_BELOW_ZERO = 0.03  # the same below zero, where nothing can be


@dataclass(frozen=True)
class Span:
    """An axis of one quantity.

    Args:
        low, high: its ends.
        log: whether it is logarithmic.
    """

    low: float
    high: float
    log: bool


def _span(low: float, high: float, margin: float, least: float = -np.inf) -> Span:
    """An axis around two values: a share of their distance on both sides, but none below the least."""
    log = bool(low > 0 and high / low > FACTOR)
    ends = np.log([low, high]) if log else np.array([low, high])
    ends = ends + margin * np.ptp(ends) * np.array([-1, 1])
    ends = np.exp(ends) if log else np.maximum(ends, least)
    return Span(float(ends[0]), float(ends[1]), log)


@dataclass(frozen=True)
class ProfileLine:
    """Profile deviance of one quantity: the rise of the objective as it is moved and all other constants are fitted anew.

    Args:
        name: of the quantity.
        values, deviance: its line.
        computed, computed_deviance: the points through which it goes.
        fit: value of the fit.
        low, high: ends of the profile interval, or of the line where the interval is open.
        cut: deviance at the ends of the interval.
        level: of the interval.
        axis: of the quantity.
    """

    name: str
    values: Float[np.ndarray, " points"]
    deviance: Float[np.ndarray, " points"]
    computed: Float[np.ndarray, " values"]
    computed_deviance: Float[np.ndarray, " values"]
    fit: float
    low: float
    high: float
    cut: float
    level: float
    axis: Span


def profiles(fitted: FitResult) -> list[ProfileLine]:
    """Profile deviance of every constant and of what is derived, up to ``ABOVE`` times the cut of the level.

    Raises:
        MissingFigureData: the fit has no profile.
    """
    report, profile = fitted.report, fitted.report.profile
    curves = profile.curves if profile else {}
    names = [name for name in (*fitted.law.names, *DERIVED) if name in curves and len(set(curves[name].values)) > 2]
    if profile is None or not names:
        raise MissingFigureData("the fit has no profile: fit with resamples above 0")
    cut = float(stdtrit(profile.dof, (1 + profile.level) / 2))
    point, ends = report.params | report.derived, profile.params | profile.derived
    lines = []
    for name in names:
        values, first = np.unique(curves[name].values, return_index=True)
        roots = np.array(curves[name].roots)[first]
        root = PchipInterpolator(values, roots)
        log = values[0] > 0 and values[-1] / values[0] > FACTOR
        fine = (np.geomspace if log else np.linspace)(values[0], values[-1], FINE)
        fine = fine[np.abs(root(fine)) <= ABOVE * cut]
        low, high = (
            end_of_line if end is None else end for end, end_of_line in zip(ends[name], fine[[0, -1]], strict=True)
        )
        lines.append(
            ProfileLine(
                name=name, values=fine, deviance=root(fine) ** 2, computed=values, computed_deviance=roots**2,
                fit=point[name], low=max(low, fine[0]), high=min(high, fine[-1]), cut=cut**2, level=profile.level,
                axis=_span(fine[0], fine[-1], MARGIN / 2),
            )
        )  # fmt: skip
    return lines


def pairs_of(fitted: FitResult) -> list[tuple[str, str]]:
    """The pairs that matter: of exponents, of floor and exponent, of what is chosen and what comes of it.

    Weights such as A of A / N^alpha are left out where other constants are left: their size means nothing by itself.
    """
    law, collinear = fitted.law, fitted.report.terms_at_centroid.collinear
    interpretable = [name for name in law.names if name not in collinear]
    floors = [name for name in interpretable if name in law.linear]
    inner = [
        param.name
        for param in law.params
        if param.name in interpretable and param.scale == "linear" and param.name not in floors
    ]
    if law.has_compute_optimum:
        first = [(inner[0], inner[1])] if len(inner) > 1 else []
        slope = "a" if first else inner[0] if inner else "n_opt"  # with one exponent a is 1/2 whatever the runs
        return [*first, *((name, slope) for name in floors[:1]), ("n_opt", "loss_opt")]
    names = interpretable if len(interpretable) > 1 else list(law.names)
    return [*pairwise(names)][:PAIRS]


@dataclass(frozen=True)
class Density:
    """A kernel density of pairs of resamples.

    Args:
        x, y: the plane of the two axes.
        height: density there.
        levels: share of the resamples within a contour -> its density, from the largest share.
    """

    x: Float[np.ndarray, "points points"]
    y: Float[np.ndarray, "points points"]
    height: Float[np.ndarray, "points points"]
    levels: dict[float, float]


@dataclass(frozen=True)
class Cloud:
    """Resamples of a pair of quantities.

    Args:
        names: of the two quantities.
        x, y: a value a resample.
        fit: their values in the fit.
        x_axis, y_axis: the axes.
        density: None where the resamples lie on a line.
    """

    names: tuple[str, str]
    x: Float[np.ndarray, " draws"]
    y: Float[np.ndarray, " draws"]
    fit: tuple[float, float]
    x_axis: Span
    y_axis: Span
    density: Density | None


def clouds(fitted: FitResult, shares: tuple[float, ...] = (0.95, 0.5)) -> list[Cloud]:
    """Resamples of the pairs that matter, with contours within which given shares of them lie.

    Args:
        fitted: the fit.
        shares: of the resamples, the largest first.

    Raises:
        MissingFigureData: the law has no two constants, or the fit too few resamples.
    """
    pairs = pairs_of(fitted)
    if not pairs:
        raise MissingFigureData(f"law '{fitted.law.name}' has no two constants that could be drawn as a pair")
    if len(fitted.predictor.draws) < FEWEST_DRAWS:
        raise MissingFigureData(
            f"the fit has fewer than {FEWEST_DRAWS} resamples: fit with resamples of {FEWEST_DRAWS} or more"
        )
    resamples, point = _resamples(fitted), fitted.report.params | fitted.report.derived
    drawn = []
    for one, other in pairs:
        known = np.isfinite(resamples[one]) & np.isfinite(resamples[other])
        x, y = resamples[one][known], resamples[other][known]
        axes = _resample_span(x, point[one]), _resample_span(y, point[other])
        drawn.append(Cloud((one, other), x, y, (point[one], point[other]), *axes, _density(x, y, axes, shares)))
    return drawn


def _resamples(fitted: FitResult) -> dict[str, Float[np.ndarray, " resamples"]]:
    """Constants of every resample, and what follows from them at the target."""
    law, predictor = fitted.law, fitted.predictor
    resamples = dict(zip(law.names, predictor.draws.T, strict=True))
    target = fitted.report.target_flops
    if target is not None:
        resamples |= derive(law, predictor.draws, predictor.cost, target, predictor.ranges["n"])
    return resamples


def _resample_span(values: Float[np.ndarray, " draws"], fit: float) -> Span:
    """An axis that holds the fit and all but the outermost resamples."""
    low, high = np.quantile(values, SHOWN)
    low, high = min(low, fit), max(high, fit)
    return _span(low, high, MARGIN, -MARGIN_BELOW_ZERO * (high - low) if values.min() >= 0 else -np.inf)


def _density(
    x: Float[np.ndarray, " draws"], y: Float[np.ndarray, " draws"], axes: tuple[Span, Span], shares: tuple[float, ...]
) -> Density | None:
    """A kernel density on the scales of the axes.

    A resample at zero, as where a floor ended on its bound, has no place on a logarithmic axis.
    """
    if any(axis.low >= axis.high for axis in axes):
        return None  # a quantity that is the same in every resample
    placed = _on_axis(x, axes[0]) & _on_axis(y, axes[1])
    scaled = lambda values, axis: np.log(values) if axis.log else np.asarray(values, float)
    points = np.stack([scaled(values[placed], axis) for values, axis in zip((x, y), axes, strict=True)])
    ends = [scaled(np.array([axis.low, axis.high]), axis) for axis in axes]
    if np.linalg.matrix_rank(np.cov(points / np.ptp(ends, axis=1)[:, None]), tol=1e-9) < 2:
        return None  # on a line, as where a constant stayed at its bound
    from scipy.stats import gaussian_kde  # half a second that a fit without figures is spared

    density = gaussian_kde(points)
    grid = np.meshgrid(*(np.linspace(low, high, DENSITY_POINTS) for low, high in ends))
    height = density(np.stack([coordinate.ravel() for coordinate in grid])).reshape(DENSITY_POINTS, DENSITY_POINTS)
    levels = np.quantile(density(points), 1 - np.array(shares))
    plane = [np.exp(coordinate) if axis.log else coordinate for coordinate, axis in zip(grid, axes, strict=True)]
    return Density(plane[0], plane[1], height, dict(zip(shares, levels.tolist(), strict=True)))


def _on_axis(values: Float[np.ndarray, " draws"], axis: Span) -> Bool[np.ndarray, " draws"]:
    """Which values have a place on an axis."""
    return values > 0 if axis.log else np.full(len(values), True)
