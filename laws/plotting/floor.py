"""The forecast at the target against the floor: of the mixture by where E lies, and of the law with E held."""

from __future__ import annotations

from typing import TYPE_CHECKING

from laws.plotting.missing import MissingFigureData
from laws.plotting.panels import Panels
from laws.plotting.style import LAW, SECOND, THIRD, legend, power
from laws.results.results import FitResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def floor(fitted: FitResult, panels: Panels) -> list[Axes]:
    """Loss at the target by the mixture where E lies in intervals of equal weight, and under fits of the law with E held.

    Of the latter, which ``--sensitivity`` makes, those inside the profile interval of E are filled.

    Args:
        fitted: the fit.
        panels: where to draw.

    Returns:
        one panel.

    Raises:
        MissingFigureData: the fit has no forecast by floor.
    """
    points, mixture = fitted.report.floor_profile, fitted.report.floor_forecast
    if not points and not mixture:
        raise MissingFigureData("the fit has no forecast by floor: fit with --sensitivity")
    (axes,) = panels(1)
    if mixture:
        _mixture(fitted, axes)
    if points:
        _held(fitted, axes)
    axes.axvline(fitted.report.params["E"], color=SECOND, linestyle="--", linewidth=1.2, label="fitted $E$", zorder=1)
    target = fitted.report.target_flops
    at_target = f" at {power(target)} FLOPs" if target else ""
    axes.set(xlabel="$E$", ylabel=f"{fitted.observable}{at_target}")
    legend(axes)
    return [axes]


def _mixture(fitted: FitResult, axes: Axes) -> None:
    """Median and interval of the mean loss by the mixture, at the median of E in every interval."""
    parts = fitted.report.floor_forecast
    floors = [part.floor for part in parts]
    axes.fill_between(
        floors,
        [part.low for part in parts],
        [part.high for part in parts],
        color=THIRD,
        alpha=0.2,
        linewidth=0,
        zorder=0,
    )
    axes.plot(floors, [part.loss for part in parts], color=THIRD, linewidth=1.6, label="surfaces, by $E$", zorder=2)


def _held(fitted: FitResult, axes: Axes) -> None:
    """Loss of the law with E held."""
    points = fitted.report.floor_profile
    axes.plot([point.floor for point in points], [point.loss for point in points], color=LAW, linewidth=1.2, zorder=2)
    for inside, face, label in ((True, LAW, "in its interval"), (False, "white", "outside it")):
        chosen = [point for point in points if (point.inside is not False) == inside]
        if chosen:
            axes.plot(
                [point.floor for point in chosen], [point.loss for point in chosen], "o", color=LAW, markersize=5,
                markerfacecolor=face, zorder=3, label=f"law, $E$ held {label}",
            )  # fmt: skip
