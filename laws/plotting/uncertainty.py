"""Uncertainty of a fit: profile deviance of its constants, and scatter of its resamples."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float
from scipy.interpolate import PchipInterpolator
from scipy.special import stdtrit

from laws.inference.allocation import derive
from laws.plotting.panels import ACROSS, MissingFigureData, Panels, legend_above
from laws.plotting.style import INK, LAW, SECOND, few_ticks, log_ticks, symbol
from laws.results.report_parts import ProfileCurve
from laws.results.results import FitResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DERIVED = ("a", "n_opt", "loss_opt")  # profiles of what is derived; the rest follows from them
ABOVE = 1.35  # how much of a profile is drawn, in multiples of the level's cut
FACTOR = 3.0  # a quantity whose drawn ends differ by more than this factor has a logarithmic axis
CLOUDS = 3  # pairs, at most
SHARES: dict[float, Any] = {0.5: "dotted", 0.95: "solid"}  # of the resamples within a contour, and its line
FEWEST = 30  # resamples of which a density is drawn
GRID = 80  # points of a density in each direction
FINE = 120  # points of a profile's line
SHOWN = (0.005, 0.995)  # quantiles of the resamples that a panel shows
MARGIN = 0.12  # around what is shown, as a share of it
MARGIN_BELOW_ZERO = 0.03  # the same below zero, where nothing can be


def _far(low: float, high: float) -> bool:
    """Whether a quantity varies by so much that its axis is logarithmic."""
    return low > 0 and high / low > FACTOR


def _scale(axes: Axes, along: str, low: float, high: float, margin: float, least: float = -np.inf) -> None:
    """An axis from one value to another, some room around them but none below the least, with few and short ticks."""
    far = _far(low, high)
    if far:
        getattr(axes, f"set_{along}scale")("log")
    ends = np.log([low, high]) if far else np.array([low, high])
    ends += margin * np.ptp(ends) * np.array([-1, 1])
    ends = np.exp(ends) if far else np.maximum(ends, least)
    if ends[0] < ends[1]:
        getattr(axes, f"set_{along}lim")(*ends)
    axis = getattr(axes, f"{along}axis")
    log_ticks(axis, *ends, narrow=True) if far else few_ticks(axis)


def _curve(curve: ProfileCurve) -> tuple[Float[np.ndarray, " points"], Float[np.ndarray, " points"]]:
    """Values and roots of a profile, values that are the same once."""
    values, first = np.unique(curve.values, return_index=True)
    return values, np.array(curve.roots)[first]


def profiles(fitted: FitResult, panels: Panels) -> list[Axes]:
    """Profile deviance: the rise of the objective as a quantity is moved and all other constants are fitted anew.

    Args:
        fitted: the fit.
        panels: where to draw.

    Raises:
        MissingFigureData: the fit has no profile.
    """
    report = fitted.report
    profile = report.profile
    curves = profile.curves if profile else {}
    roots_of = {name: _curve(curves[name]) for name in (*fitted.law.names, *DERIVED) if name in curves}
    names = [name for name, (values, _) in roots_of.items() if len(values) > 2]
    if profile is None or not names:
        raise MissingFigureData("the fit has no profile: fit with resamples above 0")
    plots = panels(len(names), 1.9, 2.2)
    cut = float(stdtrit(profile.dof, (1 + profile.level) / 2))
    point, ends = report.params | report.derived, profile.params | profile.derived
    for axes, name in zip(plots, names, strict=True):
        values, roots = roots_of[name]
        root = PchipInterpolator(values, roots)
        fine = (np.geomspace if _far(values[0], values[-1]) else np.linspace)(values[0], values[-1], FINE)
        fine = fine[np.abs(root(fine)) <= ABOVE * cut]
        low, high = (open if end is None else end for end, open in zip(ends[name], fine[[0, -1]], strict=True))
        axes.axvspan(max(low, fine[0]), min(high, fine[-1]), color=LAW, alpha=0.12, linewidth=0)
        axes.plot(fine, root(fine) ** 2, color=LAW, label="all other constants fitted anew")
        axes.plot(values, roots**2, ".", color=LAW, markersize=4)
        axes.axhline(cut**2, color=SECOND, linestyle="--", linewidth=1.1, label=f"{profile.level:.0%} level")
        axes.axvline(point[name], color=INK, linewidth=0.9, label="fit")
        _scale(axes, "x", fine[0], fine[-1], MARGIN / 2)
        axes.set(xlabel=symbol(name), ylim=(0, (ABOVE * cut) ** 2))
    for axes in plots[::ACROSS]:
        axes.set_ylabel("deviance")
    legend_above(plots, [plots[0].lines[i] for i in (0, 2, 3)])
    return plots


def _resamples(fitted: FitResult) -> dict[str, Float[np.ndarray, " resamples"]]:
    """Constants of every resample, and what follows from them at the target."""
    law, predictor = fitted.law, fitted.predictor
    resamples = dict(zip(law.names, predictor.draws.T, strict=True))
    target = fitted.report.target_flops
    if target is not None:
        resamples |= derive(law, predictor.draws, predictor.cost, target, predictor.ranges["n"])
    return resamples


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
    return [*pairwise(names)][:CLOUDS]


def _contours(axes: Axes, x: Float[np.ndarray, " draws"], y: Float[np.ndarray, " draws"]) -> None:
    """Contours within which given shares of the resamples lie, by a kernel density on the scales of the axes.

    A resample at zero, as where a floor ended on its bound, has no place on a logarithmic axis.
    """
    logs = [scale == "log" for scale in (axes.get_xscale(), axes.get_yscale())]
    placed = np.all([v > 0 if log else np.full(len(v), True) for v, log in zip((x, y), logs, strict=True)], axis=0)
    x, y = x[placed], y[placed]
    scaled = lambda pair: [np.log(v) if log else np.asarray(v) for v, log in zip(pair, logs, strict=True)]
    points, frame = np.stack(scaled((x, y))), scaled((axes.get_xlim(), axes.get_ylim()))
    if np.linalg.matrix_rank(np.cov(points / np.ptp(frame, axis=1)[:, None]), tol=1e-9) < 2:
        return  # on a line, as where a constant stayed at its bound
    from scipy.stats import gaussian_kde  # half a second that a fit without figures is spared

    density = gaussian_kde(points)
    grid = np.meshgrid(*(np.linspace(low, high, GRID) for low, high in frame))
    height = density(np.stack([along.ravel() for along in grid])).reshape(GRID, GRID)
    shares = sorted(SHARES, reverse=True)
    levels = np.quantile(density(points), 1 - np.array(shares))
    plane = [np.exp(along) if log else along for along, log in zip(grid, logs, strict=True)]
    styles = [SHARES[share] for share in shares]
    axes.contour(*plane, height, levels, colors=LAW, linewidths=1.5, linestyles=styles, zorder=3)


def clouds(fitted: FitResult, panels: Panels) -> list[Axes]:
    """Pairs of fitted quantities, a point a resample, with the contours of 50% and 95% of them and the fit itself.

    Args:
        fitted: the fit.
        panels: where to draw.

    Raises:
        MissingFigureData: the law has no two constants, or the fit too few resamples.
    """
    from matplotlib.lines import Line2D

    pairs = pairs_of(fitted)
    if not pairs:
        raise MissingFigureData(f"law '{fitted.law.name}' has no two constants that could be drawn as a pair")
    if len(fitted.predictor.draws) < FEWEST:
        raise MissingFigureData(f"the fit has fewer than {FEWEST} resamples: fit with resamples of {FEWEST} or more")
    resamples, point = _resamples(fitted), fitted.report.params | fitted.report.derived
    plots = panels(len(pairs), 2.6, 2.9)
    for axes, (one, other) in zip(plots, pairs, strict=True):
        known = np.isfinite(resamples[one]) & np.isfinite(resamples[other])
        x, y = resamples[one][known], resamples[other][known]
        for along, values, name in (("x", x, one), ("y", y, other)):
            low, high = np.quantile(values, SHOWN)
            low, high = min(low, point[name]), max(high, point[name])
            least = -MARGIN_BELOW_ZERO * (high - low) if values.min() >= 0 else -np.inf
            _scale(axes, along, low, high, MARGIN, least)
        axes.plot(x, y, ".", color=INK, markersize=3, alpha=0.4, markeredgewidth=0, zorder=2, label="resample")
        _contours(axes, x, y)
        axes.plot(
            point[one], point[other], "D", color=SECOND, markersize=5.5, markeredgecolor="white", zorder=4, label="fit"
        )
        axes.set(xlabel=symbol(one), ylabel=symbol(other))
    outer = [
        Line2D([], [], color=LAW, linestyle=style, label=f"{share:.0%} of them") for share, style in SHARES.items()
    ]
    legend_above(plots, [*plots[0].lines[:1], *outer, *plots[0].lines[1:2]])
    return plots
