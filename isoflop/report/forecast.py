"""The frozen prediction: what was frozen, what was measured since, and what naive forecasters would have predicted."""

from typing import Any

from isoflop.report import interval_figures
from isoflop.report.embedding import embed_figure
from isoflop.report.formats import power_of_ten
from isoflop.report.law import distance
from isoflop.report.study import FrozenForecast, Study

CAPTION = "Three forecasts made from the smaller budgets, and the loss that was measured."
BUDGETS_CAPTION = "Forecasts of every held-out budget, all from the same smaller budgets, over the loss measured there."


def prediction(study: Study) -> dict[str, Any] | None:
    """What `prediction.html` shows."""
    frozen, score = study.prediction, study.score
    if frozen is None and score is None:
        return None
    content: dict[str, Any] = {"score": score, "frozen": frozen, "budgets": _budgets(study.forecasts)}
    scored = [(_name(forecast), forecast.score) for forecast in study.forecasts if forecast.score]
    if len(scored) > 1:
        figure = interval_figures.forecasts_over_measured(scored)
        content["figure_of_budgets"] = embed_figure("budgets", figure, BUDGETS_CAPTION)
    if score is not None:
        content |= {
            "figure": embed_figure("forecasts", interval_figures.forecasts(score), CAPTION),
            "level": f"{score['predicted']['level']:.0%}",
            "naive_forecasts": _naive_forecasts(score),
        }
    if frozen is not None:
        content |= {
            "split": frozen["prediction"].get("split"),
            "first_record_at": (score or {}).get("first_record_at"),
            "extrapolation": distance(frozen["prediction"]["extrapolation"]),
            "inputs": frozen.get("inputs", []),
            "seal": frozen.get("sha256", "none"),
        }
    return content


def _name(forecast: FrozenForecast) -> str:
    return f"{power_of_ten(forecast.compute, 2)} FLOPs" if forecast.compute else "the run"


def _budgets(forecasts: tuple[FrozenForecast, ...]) -> list[dict[str, Any]]:
    """A row of the table for each of several held-out budgets; none for a single one."""
    rows = [
        {"name": _name(forecast), **forecast.prediction["prediction"], "score": forecast.score}
        for forecast in forecasts
        if forecast.prediction
    ]
    return rows if len(rows) > 1 else []


def _naive_forecasts(score: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Naive forecasts by their titles."""
    named = ((title, score["baselines"].get(key)) for key, title in interval_figures.NAIVE_NAMES.items())
    return [(title, naive) for title, naive in named if naive]


def closer(score: dict[str, Any]) -> list[tuple[str, float]]:
    """Naive forecasts that came closer than the law's, and how close."""
    errors = [(title, naive["abs_rel_error"]) for title, naive in _naive_forecasts(score)]
    return [(title, error) for title, error in errors if error < score["abs_rel_error"]]
