"""The law of the frontier beside the surfaces, as a report states it: what it is fitted to, and what both forecast."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from laws.base.errors import FitFailed
from laws.data.grouping import frontier
from laws.forecasting.frontier import FEWEST_POINTS, frontier_member
from laws.forecasting.prediction import predict_compute
from laws.forecasting.priors import prior_of
from laws.inference.resampling import DesignFits
from laws.results.fitting import FittedTable
from laws.results.form_reports import frontier_predictor, rival_report
from laws.results.report_parts import ApproachReport, FrontierReport, LossForecast

MINIMA_OF = "isoflop_cubic"  # the approach whose minima of iso-FLOP profiles are a frontier
BEST_RUNS, MINIMA = "frontier of the best runs", "frontier of the minima of profiles"


def frontier_points(
    fits: DesignFits, approaches: Mapping[str, ApproachReport]
) -> dict[str, tuple[tuple[float, float], ...]]:
    """Points of every frontier that has enough of them: training FLOPs and loss.

    Args:
        fits: of a law of n and d, with compute.
        approaches: of the report, for the minima.
    """
    c, loss = fits.columns["c"], np.exp(fits.log_loss[0])
    best = frontier(c, loss)
    points = {BEST_RUNS: tuple(zip(c[best].tolist(), loss[best].tolist(), strict=True))}
    if MINIMA_OF in approaches:
        points[MINIMA] = tuple((minimum.c, minimum.loss) for minimum in approaches[MINIMA_OF].minima)
    return {label: of_form for label, of_form in points.items() if len(of_form) >= FEWEST_POINTS}


def frontier_report(fit: FittedTable, approaches: Mapping[str, ApproachReport]) -> FrontierReport | None:
    """The law of the frontier of a fit; None where its forecasts are not those of surfaces, or it has too few budgets.

    Args:
        fit: a law fitted to a table.
        approaches: of its report.
    """
    if not fit.spread.forms or fit.target is None or not fit.by_surfaces or "c" not in fit.fits.columns:
        return None
    settings, points = fit.settings, frontier_points(fit.fits, approaches)
    if not points:
        return None
    prior = prior_of(settings.prior, settings.prior_without)
    members = [
        frontier_member(label, np.array(c), np.array(loss), prior, fit.fits.config, settings.seed)
        for label, (c, loss) in ((label, zip(*of_form, strict=True)) for label, of_form in points.items())
    ]
    equal = np.full(1, 1 / len(members))
    report = FrontierReport(tuple(rival_report(replace(form, weight=equal)) for form in members), points)
    try:
        forecast = predict_compute(fit.predictor.beside(frontier_predictor(fit.predictor, report.forms)), fit.target)
    except FitFailed:
        return report
    beside = forecast.frontier
    assert beside is not None
    return replace(
        report,
        surfaces=LossForecast(forecast.value, *beside.surfaces_interval),
        frontier=LossForecast(beside.value, *beside.mean_interval),
        disagree=beside.disagrees,
    )
