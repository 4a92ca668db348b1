"""Figures of a few values with their intervals: exponents by each approach, forecasts beside what was measured."""

from collections.abc import Callable
from typing import Any

import plotly.graph_objects as go

from isoflop.report.formats import exponent, number
from isoflop.report.plotly_primitives import MEASURED, error_bars, markers, wrapped
from laws.model.law import LOSS
from laws.plotting.style import LAW, NAIVE

NAIVE_NAMES = {"power_law": "power law without offset", "best_so_far": "best loss so far"}
ROW, FRAME = 42, 96  # pixels of a value, and of what stands around all of them


def exponents(rows: list[tuple[str, float, list[float] | None, str]]) -> go.Figure | None:
    """The exponent of N*(C) by each approach, with intervals, from the top down.

    Args:
        rows: name, value, ends (None where unknown) and colour of each.
    """
    if not rows:
        return None
    figure = _intervals([(name, value, ends or [value, value], colour) for name, value, ends, colour in rows], exponent)
    figure.add_vline(0.5, line={"color": NAIVE, "dash": "dash", "width": 1})
    figure.update_xaxes(title_text="exponent a of N*(C)")
    return figure


def forecasts(score: dict[str, Any]) -> go.Figure:
    """Forecasts of the law and of its naive rivals, beside what was measured.

    Args:
        score: content of ``score.json``.
    """
    predicted, naive = score["predicted"], score["baselines"]
    rows = [("the forecast", predicted["loss"], predicted["interval"], LAW)]
    rows += [
        (title, naive[key]["loss"], [naive[key]["loss"]] * 2, NAIVE)
        for key, title in NAIVE_NAMES.items()
        if naive.get(key)
    ]
    figure = _intervals(rows, lambda value: number(value, 5))
    measured = score["measured"]["loss"]
    label: dict[str, Any] = {"annotation_text": f"measured {number(measured, 5)}", "annotation_position": "top"}
    figure.add_vline(measured, line={"color": MEASURED, "width": 3}, layer="below", **label)
    figure.update_xaxes(title_text=LOSS)
    return figure


def forecasts_over_measured(scores: list[tuple[str, dict[str, Any]]]) -> go.Figure:
    """Forecasts of several budgets over what was measured there, in percent.

    Args:
        scores: name of a budget, and content of its ``score.json``.
    """
    rows = []
    for name, score in scores:
        measured = score["measured"]["loss"]
        over = lambda loss, measured=measured: 100 * (loss / measured - 1)
        predicted = score["predicted"]
        rows.append((name, over(predicted["loss"]), [over(end) for end in predicted["interval"]], LAW))
        for key, title in NAIVE_NAMES.items():
            if naive := score["baselines"].get(key):
                rows.append((f"{name}, {title}", over(naive["loss"]), [over(naive["loss"])] * 2, NAIVE))
    figure = _intervals(rows, lambda value: f"{number(value, 3)}%")
    figure.add_vline(0.0, line={"color": MEASURED, "width": 3}, layer="below")
    figure.update_xaxes(title_text="forecast over measured loss (%)")
    return figure


def _intervals(rows: list[tuple[str, float, list[float], str]], write: Callable[[float], str]) -> go.Figure:
    """Values with intervals, from the top down.

    Args:
        rows: name, value, ends and colour of each.
        write: a value as text.
    """
    figure = go.Figure()
    for name, value, (low, high), colour in rows:
        hover = f"{write(value)} [{write(low)}, {write(high)}]" if high > low else write(value)
        options: dict[str, Any] = {"error_x": error_bars([value], [low], [high], colour, 2), "hovertext": hover}
        dot = {"size": 11, "color": colour}
        trace = markers([value], [wrapped(name)], name, dot, hoverinfo="text", showlegend=False, **options)
        figure.add_trace(trace)
    figure.update_layout(height=FRAME + ROW * len(rows))
    figure.update_yaxes(autorange="reversed", tickfont={"size": 12})
    return figure
