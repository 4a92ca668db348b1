"""A forecast of a budget whose interval is the certificate of the frontier: whatever mixtures of power laws allow."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from jaxtyping import Float
from scipy.special import ndtri, stdtrit

from laws.base.errors import InputError
from laws.data.grouping import frontier
from laws.forecasting.certificate import certificate
from laws.forecasting.posterior import NU
from laws.forecasting.prediction import CertificateTolerance, Forecast
from laws.results.report import FitReport


def frontier_of(report: FitReport) -> tuple[Float[np.ndarray, " points"], Float[np.ndarray, " points"]]:
    """Training FLOPs and loss of the best run of each budget of a fit.

    Args:
        report: of the fit.

    Raises:
        InputError: its runs have no compute.
    """
    if "c" not in report.data.values:
        raise InputError("a certificate is of the loss over compute, and the fitted runs have none")
    c, loss = np.array(report.data.values["c"]), np.array(report.data.loss)
    best = frontier(c, loss)
    return c[best], loss[best]


def default_tolerance(report: FitReport, points: int) -> float:
    """Relative distance that no point of a frontier is expected to exceed, at the level of the fit.

    It is the larger one of two: by the noise between repeated runs, where there are any, with a normal distribution; and by
    the posterior scale of the law of the frontier, which holds its lack of fit, with Student's t distribution. The level is
    of all points together (Bonferroni).

    Args:
        report: of the fit.
        points: of the frontier.
    """
    tail = 1 - (1 - report.intervals.level) / (2 * points)
    forms = report.frontier.forms if report.frontier is not None else report.model_average.forms[1:]
    noise = [np.median(form.noise) for form in forms if form.noise]
    # The first form is that of the best runs; minima of profiles scatter less.
    of_law = stdtrit(NU, tail) * noise[0] if noise else ndtri(tail) * report.noise.residual
    return float(max(of_law, ndtri(tail) * (report.noise.seeds or 0.0)))


def with_certificate(forecast: Forecast, report: FitReport, compute: float, tolerance: float | None) -> Forecast:
    """A forecast of a budget with the interval of the certificate.

    The interval of the mean has the values of the two linear programs as its ends; that of one run lies further out by the
    tolerance.

    Args:
        forecast: of the budget.
        report: of the fit.
        compute: training FLOPs.
        tolerance: relative distance within which points are to be met; by default from the noise.

    Raises:
        InputError: the runs have no compute or too few budgets, or the tolerance is not positive.
        FitFailed: a linear program was not solved.
    """
    c, loss = frontier_of(report)
    asked = default_tolerance(report, len(c)) if tolerance is None else tolerance
    bounds = certificate(c, loss, asked, np.array([compute]))
    low, high = float(bounds.low[0]), float(bounds.high[0])
    widened = (
        f" (none meets them within {asked:.3g}, which is added to the least that one does)"
        if bounds.least_tolerance > 1
        else ""
    )
    text = (
        f"the interval is a certificate: every mixture of falling power laws that meets the {len(c)} runs of the frontier "
        f"within {bounds.tolerance:.3g}{widened} lies in it; it has no probability"
    )
    return replace(
        forecast,
        interval=(low * (1 - bounds.tolerance), high * (1 + bounds.tolerance)),
        mean_interval=(low, high),
        certificate=CertificateTolerance(bounds.tolerance, bounds.least_tolerance, len(c)),
        warnings=(*forecast.warnings, text),
    )
