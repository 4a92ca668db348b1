"""The forecast at the target against the floor that is held, and the interval of the floor."""

from __future__ import annotations

from typing import TYPE_CHECKING

from laws.plotting.missing import MissingFigureData
from laws.plotting.panels import Panels
from laws.plotting.style import LAW, SECOND, legend, power
from laws.results.results import FitResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def floor(fitted: FitResult, panels: Panels) -> list[Axes]:
    """Loss at the target under fits with E held, those inside the profile interval of E filled.

    Args:
        fitted: the fit.
        panels: where to draw.

    Returns:
        one panel.

    Raises:
        MissingFigureData: the fit has no floor profile.
    """
    points = fitted.report.floor_profile
    if not points:
        raise MissingFigureData("the fit has no forecast by floor: fit with --sensitivity")
    (axes,) = panels(1)
    axes.plot([point.floor for point in points], [point.loss for point in points], color=LAW, linewidth=1.2, zorder=2)
    for inside, face, label in ((True, LAW, "inside its profile interval"), (False, "white", "outside")):
        chosen = [point for point in points if (point.inside is not False) == inside]
        if chosen:
            axes.plot(
                [point.floor for point in chosen], [point.loss for point in chosen], "o", color=LAW, markersize=5,
                markerfacecolor=face, zorder=3, label=f"$E$ {label}",
            )  # fmt: skip
    axes.axvline(fitted.report.params["E"], color=SECOND, linestyle="--", linewidth=1.2, label="fitted $E$", zorder=1)
    target = fitted.report.target_flops
    at_target = f" at {power(target)} FLOPs" if target else ""
    axes.set(xlabel="$E$ that is held", ylabel=f"{fitted.observable}{at_target}")
    legend(axes)
    return [axes]
