"""The figure of the README: forecasts of budgets that were held out, and the runs that were measured there.

    ISOFLOP_PUBLISHED=FOLDER python -m documentation.front_figure docs/forecast.png

Left: the demo's own runs (`notebooks/data/demo`), whose largest budget is forecast from the smaller ones. Right: the case
`chinchilla_epochai-far` of `python -m benchmarks.heldout`, the runs of Hoffmann et al. 2022 as digitised by Epoch AI
(`isoflop_collection.csv`): those up to a tenth of the largest compute are fitted, with a prior that never saw this source.
A band is the 95% interval for one run at that size and budget.
"""

import os
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

import laws

ROOT = Path(__file__).parents[1]
FITTED, HELD_OUT = "#8a9099", "#c2410c"


def demo() -> pd.DataFrame:
    """The runs of `make demo`: columns n, d, c (the budget) and loss."""
    runs = pd.read_parquet(ROOT / "notebooks" / "data" / "demo" / "runs.parquet").query("status == 'completed'")
    return pd.DataFrame({"n": runs.params_total, "d": runs.tokens, "c": runs.budget, "loss": runs.loss})


def chinchilla() -> pd.DataFrame:
    """The runs of Hoffmann et al.: columns n, d, c (the budget) and loss; the best of each point, no copies."""
    table = pd.read_csv(Path(os.environ["ISOFLOP_PUBLISHED"]) / "isoflop_collection.csv")
    table = table[table.experiment.str.startswith("epochai_chinchilla") & (table.reason != "exact_duplicate")]
    runs = pd.DataFrame({"n": table.params, "d": table.tokens, "c": table.budget, "loss": table.loss})
    return runs.sort_values("loss").drop_duplicates(["n", "d"])


def along(runs: pd.DataFrame, budget: float) -> pd.DataFrame:
    """Sizes from the smallest to the largest of a budget, with the data that the budget buys at each."""
    at = runs[runs.c == budget].groupby("n", as_index=False).d.mean().sort_values("n")
    n = np.geomspace(at.n.min(), at.n.max(), 60)
    return pd.DataFrame({"n": n, "d": np.exp(np.interp(np.log(n), np.log(at.n), np.log(at.d)))})


def panel(axes: Any, runs: pd.DataFrame, below: float, title: str, held_out_label: str, **fitting: Any) -> None:
    """One study: its fitted budgets in grey, the forecast bands of the others and what was measured in colour.

    Args:
      axes: of matplotlib.
      runs: columns n, d, c and loss.
      below: budgets from here on are held out.
      title: of the panel.
      held_out_label: what the legend calls the runs of the held-out budgets.
      fitting: settings of the fit.
    """
    fitted: Any = runs[runs.c < below]
    held_out: Any = runs[runs.c >= below]
    fit = laws.load(fitted, n="n", d="d", c="c", loss="loss").fit("chinchilla", **fitting)
    for budget in sorted(runs.c.unique()):
        ahead = budget >= below
        colour = HELD_OUT if ahead else FITTED
        grid = along(runs, budget)
        frame = fit.get_prediction(grid).summary_frame()
        axes.plot(grid.n, frame["mean"], color=colour, linewidth=1.6 if ahead else 0.9, zorder=2)
        if ahead:
            axes.fill_between(grid.n, frame.run_ci_lower, frame.run_ci_upper, color=colour, alpha=0.18, linewidth=0)
        end = (grid.n.iloc[-1], frame["mean"].iloc[-1])
        text = f"{budget:.2g}".replace("e+", "e")
        axes.annotate(text, end, (5, 0), textcoords="offset points", fontsize=7, color=colour, va="center")
    axes.scatter(fitted.n, fitted.loss, s=11, color=FITTED, zorder=3, label=f"{len(fitted)} runs, fitted")
    label = f"{len(held_out)} runs, {held_out_label}"
    axes.scatter(held_out.n, held_out.loss, s=20, facecolor="white", edgecolor=HELD_OUT, zorder=4, label=label)
    predicted = fit.get_prediction(held_out).summary_frame()
    loss = held_out.loss.to_numpy()
    inside = (loss >= predicted.run_ci_lower.to_numpy()) & (loss <= predicted.run_ci_upper.to_numpy())
    print(f"{title}: {inside.sum()} of {len(held_out)} inside")
    axes.set(xscale="log", yscale="log", xlabel="parameters", title=title)
    axes.legend(frameon=False, fontsize=8, loc="lower left")


def draw(out: Path) -> None:
    """Both studies into one file."""
    style: Any = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": 10}
    with plt.rc_context(style):
        figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.1), layout="constrained")
        panel(left, demo(), 9e11, "make demo: 7 to 175 thousand parameters", "held out")
        public, title = chinchilla(), "Hoffmann et al. 2022: up to 16 billion parameters"
        panel(right, public, public.c.max() / 9.5, title, "held out", prior_without=["chinchilla"])
        left.set_ylabel("loss, nats a token")
        for axes in (left, right):
            axes.yaxis.set_major_formatter(matplotlib.ticker.FormatStrFormatter("%.1f"))
            axes.yaxis.set_minor_formatter(matplotlib.ticker.FormatStrFormatter("%.1f"))
        left.set_ylim(1.48, None)
        right.set_ylim(1.9, 3.3)  # the smallest budgets' far too large models are left outside
        figure.savefig(out, dpi=150)


if __name__ == "__main__":
    draw(Path(sys.argv[1]))
