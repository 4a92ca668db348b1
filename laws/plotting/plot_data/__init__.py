"""The numbers of the figures, in one place for both renderers: matplotlib here, plotly in the report page.

A renderer takes every value, interval and curve from here; it decides frames, colours and labels alone.
"""

from laws.plotting.plot_data.constants import Cloud, ProfileLine, clouds, pairs_of, profiles
from laws.plotting.plot_data.forecasts import CalibrationSeries, ForecastSeries, backtest_series, calibration_series
from laws.plotting.plot_data.optimum import (
    LossBand,
    budget_minima,
    compute_grid,
    envelope,
    extrapolation_start,
    loss_band,
    naive_power_law,
    optimum,
    target_optimum,
)
from laws.plotting.plot_data.runs import (
    CURVE_POINTS,
    FEWEST_SIZES,
    MOST_BUDGETS,
    BudgetCurve,
    Frame,
    LearningCurve,
    Residuals,
    budget_compute,
    budget_curves,
    drawn_budgets,
    fitted_runs,
    learning_curves,
    predicted,
    residuals,
    tokens_bought,
    with_residuals_and_budgets,
)
from laws.plotting.plot_data.single_variable import VariableBand, variable_band
from laws.plotting.plot_data.surface import Surface, surface
from laws.plotting.plot_data.transfer import TransferCurve, require_transfer, tokens_transferred, transfer_curves

__all__ = [
    "CURVE_POINTS",
    "FEWEST_SIZES",
    "MOST_BUDGETS",
    "BudgetCurve",
    "CalibrationSeries",
    "Cloud",
    "ForecastSeries",
    "Frame",
    "LearningCurve",
    "LossBand",
    "ProfileLine",
    "Residuals",
    "Surface",
    "TransferCurve",
    "VariableBand",
    "backtest_series",
    "budget_compute",
    "budget_curves",
    "budget_minima",
    "calibration_series",
    "clouds",
    "compute_grid",
    "drawn_budgets",
    "envelope",
    "extrapolation_start",
    "fitted_runs",
    "learning_curves",
    "loss_band",
    "naive_power_law",
    "optimum",
    "pairs_of",
    "predicted",
    "profiles",
    "require_transfer",
    "residuals",
    "surface",
    "target_optimum",
    "tokens_bought",
    "tokens_transferred",
    "transfer_curves",
    "variable_band",
    "with_residuals_and_budgets",
]
