"""The budget slider: forecast, N* and D* at the budget that a reader chooses, from the resamples of the fit.

Every position of the slider is computed here, by the forecasts that `isoflop predict --compute` makes, so the page holds
their values and no second implementation of a law. They ride in the figure's own data (`layout.meta`).
"""

from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from isoflop.report.embedding import embed_figure
from isoflop.report.formats import count, number, power_of_ten, span
from isoflop.report.plotly_primitives import axis, band, label, line, markers, starred_label
from isoflop.report.study import Study
from laws.plotting.style import LAW, SECOND as CHOSEN

POSITIONS = 81  # of the slider
BEYOND = 100.0  # factor by which it reaches beyond the runs and the target
CAPTION = (
    "Loss, size and data at the best split of each budget, with intervals from the resamples; the cross is the budget that "
    "is chosen."
)


def budget(study: Study) -> dict[str, Any] | None:
    """What `budget.html` shows: the figure with its positions, and the texts of the first one, the target of the fit."""
    fit, points = study.fit, study.points
    if fit is None or not fit.law.has_compute_optimum or fit.report.target_flops is None or "c" not in points:
        return None
    fitted = points.loc[points["fitted"], "c"]
    target, largest = fit.report.target_flops, float(fitted.max())
    grid = np.geomspace(float(fitted.min()), BEYOND * max(target, largest), POSITIONS)
    at_target = int(np.argmin(np.abs(np.log(grid / target))))
    grid[at_target] = target
    best: Any = fit.optimal(grid)
    ends = [f"{end}_ci_{side}" for end in ("loss_run", "n", "d") for side in ("lower", "upper")]
    rows = best[["loss", "n", "d", *[name for name in ends if name in best]]].to_dict("records")
    steps = [_step(c, row, largest) for c, row in zip(grid, rows, strict=True)]
    figure = _figure(study, grid, best, at_target)
    figure.update_layout(meta={"steps": steps, "marked": _marked(figure)})
    return {
        "figure": embed_figure("budget", figure, CAPTION),
        "positions": POSITIONS,
        "chosen": at_target,
        "step": steps[at_target],
        "level": f"{fit.report.intervals.level:.0%} interval",
        "unit": starred_label(study, "d"),
        "loss": label(study, "loss"),
    }


def _step(c: float, row: dict[str, float], largest: float) -> dict[str, Any]:
    """Texts and positions of one budget.

    Args:
        c: training FLOPs.
        row: of ``FitResult.optimal``.
        largest: compute of the fitted runs, at most.
    """
    ends = lambda name: (row.get(f"{name}_ci_lower"), row.get(f"{name}_ci_upper"))
    factor = c / largest
    return {
        "budget": f"{power_of_ten(c)} FLOPs",
        "loss": number(row["loss"], 4),
        "loss_interval": span(ends("loss_run"), number, 4),
        "n": count(row["n"]),
        "n_interval": span(ends("n"), count),
        "d": count(row["d"]),
        "d_interval": span(ends("d"), count),
        "ratio": number(row["d"] / row["n"]),
        "distance": f"{number(factor)} times the largest fitted run" if factor > 1 else "within the fitted runs",
        "x": c,
        "y": [None if not np.isfinite(row[name]) else row[name] for name in ("loss", "n", "d")],
    }


def _figure(study: Study, grid: np.ndarray, best: Any, chosen: int) -> go.Figure:
    """Three panels: loss, N* and D* against compute, each with its interval and the chosen budget.

    Args:
        study: names the axes.
        grid: training FLOPs.
        best: of ``FitResult.optimal`` there.
        chosen: position of the chosen budget.
    """
    figure = make_subplots(1, 3, horizontal_spacing=0.09)
    figure.update_xaxes(axis(label(study, "c"), "c", grid))
    titles = {"loss": label(study, "loss"), "n": starred_label(study, "n"), "d": starred_label(study, "d")}
    for column, (name, title) in enumerate(titles.items(), start=1):
        ends = [best.get(f"{'loss_run' if name == 'loss' else name}_ci_{side}") for side in ("lower", "upper")]
        values = best[name].to_numpy(float)
        panel: dict[str, Any] = {"row": 1, "col": column}
        shown: dict[str, Any] = {"showlegend": column == 1}
        if all(end is not None for end in ends):
            low, high = (np.asarray(end, float) for end in ends)
            known = np.isfinite(low) & np.isfinite(high) & (low > 0)
            if known.any():
                figure.add_trace(band(grid[known], low[known], high[known], "interval", **shown), **panel)
                values = np.r_[values, low[known], high[known]]
        figure.add_trace(line(grid, best[name], "best split", LAW, **shown), **panel)
        cross = {"symbol": "cross", "size": 13, "color": CHOSEN}
        figure.add_trace(markers([grid[chosen]], [best[name].iloc[chosen]], "chosen budget", cross, **shown), **panel)
        figure.update_yaxes(axis(title, name, values[np.isfinite(values) & (values > 0)]), **panel)
    figure.update_layout(height=380)
    return figure


def _marked(figure: go.Figure) -> list[int]:
    """Numbers of the traces that the slider moves, from the left panel to the right one."""
    return [i for i, trace in enumerate(figure.data) if getattr(trace, "name", "") == "chosen budget"]
