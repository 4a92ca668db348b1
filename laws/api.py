"""What users touch: tables that fit themselves, and fits that plot themselves."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import ParamSpec

from laws.base.uncertainty_config import DEFAULT_UNCERTAINTY, UncertaintyConfig
from laws.data import loading
from laws.data.curves import Curves
from laws.data.table import Table
from laws.forecasting.priors import PriorName
from laws.model.law import Law
from laws.plotting.accessor import FitPlots
from laws.plotting.figures import plot_all
from laws.results import read_back, results
from laws.results.analysis import analyse
from laws.results.fitting import FitSettings

P = ParamSpec("P")


class Runs(Table):
    """A checked table of runs that can be fitted."""

    def fit(
        self,
        law: str | Law = "chinchilla",
        *,
        objective: str = "log_huber",
        delta: float = 1e-3,
        resamples: int = 1000,
        ci_method: str = "auto",
        uncertainty: UncertaintyConfig = DEFAULT_UNCERTAINTY,
        level: float = 0.95,
        target: float | None = None,
        holdout_above: float | None = None,
        fixed: Mapping[str, float] | None = None,
        curves: Curves | None = None,
        seed: int = 0,
        prior: PriorName = "public",
        prior_without: Sequence[str] = (),
        group: str | None = None,
    ) -> FitResult:
        """A law fitted to these runs, certified, with intervals, a backtest, and the weights of rival laws.

        Args:
            law: a name of ``laws.LAWS``, or a declaration.
            objective: ``log_huber``, ``log_squared``, ``squared`` or ``log_asymmetric``, summed over rows.
            delta: Huber's threshold, in log loss.
            resamples: draws of the constants; 0 for no intervals.
            ci_method: ``pairs`` (bootstrap over runs), ``wild`` (bootstrap of residuals, for few runs), ``jackknife`` or
                ``profile`` (likelihood); ``auto`` is wild with fewer than eight runs a constant, else pairs. The
                jackknife is for the objectives ``log_squared`` and ``squared`` alone.
            uncertainty: settings that shape intervals, each with its reason.
            level: of all intervals.
            target: training FLOPs at which best size, data and loss are derived; by default the table's largest.
            holdout_above: runs with more training FLOPs are left out of the fit, and predicted.
            fixed: constants that are held at given values.
            curves: learning curves from ``laws.load_curves``, for approach 1.
            seed: of all draws.
            prior: of the surfaces that forecast loss over size and data: ``public`` (what published tables have in
                common), ``weak`` (weakly informative) or ``none``.
            prior_without: sources that the public prior leaves out (``laws.forecasting.priors.SOURCES``): those of
                these runs, where they are published.
            group: column of groups of runs (optimizers, corpora, architectures) that share the law, each with factors of
                its own on size and data: ``fit.groups`` are their efficiencies. Such a fit forecasts by its law alone, not
                by the mixture of surfaces (``prior`` has no effect), each group by its number in a column ``group``.

        Returns:
            the fit.

        Raises:
            InputError: the table does not suit the law, the hold-out leaves nothing, or a setting means nothing.
            FitFailed: no start reached an optimum.

        Example:
            >>> import numpy as np, pandas as pd, laws
            >>> n, d = np.repeat([1e7, 1e8, 1e9], 3), np.tile([1e9, 1e10, 1e11], 3)
            >>> table = pd.DataFrame({"n": n, "d": d, "loss": 1.7 + 400 / n**0.34 + 410 / d**0.28})
            >>> fit = laws.load(table, n="n", d="d").fit(resamples=0)
            >>> fit.params.round(3)[["E", "alpha", "beta"]].to_dict()
            {'E': 1.7, 'alpha': 0.34, 'beta': 0.28}
        """
        settings = FitSettings(
            objective=objective,
            delta=delta,
            resamples=resamples,
            ci_method=ci_method,
            uncertainty=uncertainty,
            level=level,
            target=target,
            holdout_above=holdout_above,
            fixed=fixed,
            curves=curves,
            seed=seed,
            prior=prior,
            prior_without=tuple(prior_without),
            group=group,
        )
        return FitResult(*analyse(self, law, settings))


class FitResult(results.FitResult):
    """A law fitted to runs: constants, intervals, forecasts and figures, in the manner of statsmodels.

    Example:
        >>> import numpy as np, pandas as pd, laws
        >>> c = np.geomspace(1e18, 1e21, 8)
        >>> fit = laws.load(pd.DataFrame({"c": c, "loss": 2 + 1e3 * c**-0.15}), c="c").fit("power_offset_c", resamples=0)
        >>> fit.params.round(3).to_dict()
        {'k': 1000.0, 'E': 2.0, 'p': 0.15}
        >>> float(fit.predict({"c": [1e24]})[0].round(4))
        2.2512
    """

    @property
    def plot(self) -> FitPlots:
        """Figures of the fit: ``fit.plot.isoflop(ax=None)`` and its sisters draw and return matplotlib axes."""
        return FitPlots(self)

    def plot_all(self, directory: str | Path, curves: Curves | None = None) -> list[Path]:
        """Every figure that the fit has data for, as PNG and SVG; returns the files.

        Args:
            directory: made if it is not there.
            curves: learning curves from ``laws.load_curves``.
        """
        return plot_all(self, directory, curves)


def _as_runs(load: Callable[P, Table]) -> Callable[P, Runs]:
    """A function that returns a table, as one that returns runs: the same arguments, types and documentation."""

    @functools.wraps(load)
    def loaded(*args: P.args, **options: P.kwargs) -> Runs:
        return Runs(**vars(load(*args, **options)))

    loaded.__signature__ = inspect.signature(load).replace(return_annotation=Runs)  # type: ignore[attr-defined]
    return loaded


load = _as_runs(loading.load)


def read_fit(path: str | Path, law: str | Law | Iterable[str | Law] | None = None) -> FitResult:
    """A fit from ``fit.json``.

    Args:
        path: the file.
        law: the declaration, or ``file.py:NAME``; needed for a law that is not one of ``laws.LAWS``. Of several, the one
            that is called as the law of the fit. A file that ``fit.json`` names is never executed.

    Raises:
        InputError: no such file, not a fit, or a fit of another version.

    Example:
        >>> import pathlib, tempfile, numpy as np, pandas as pd, laws
        >>> c = np.geomspace(1e18, 1e21, 8)
        >>> fit = laws.load(pd.DataFrame({"c": c, "loss": 2 + 1e3 * c**-0.15}), c="c").fit("power_offset_c", resamples=0)
        >>> path = fit.save(pathlib.Path(tempfile.mkdtemp()) / "fit.json")
        >>> laws.read_fit(path).params.equals(fit.params)
        True
    """
    return FitResult(**vars(read_back.read_fit(path, law)))
