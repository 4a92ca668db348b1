"""What users touch: a table that fits itself, and a fit that plots itself."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from laws.data import table as tables
from laws.model.law import Law
from laws.plotting.figures import plot_all
from laws.results import analysis, results

if TYPE_CHECKING:
    import pandas as pd


class Runs(tables.Table):
    """A checked table of runs that can be fitted."""

    def fit(self, law: str | Law = "chinchilla", **options: Any) -> FitResult:
        """The law fitted to these runs; the options are those of ``laws.results.analysis.analyse``."""
        return FitResult(**vars(analysis.analyse(self, law, **options)))


class FitResult(results.FitResult):
    """A fit that can be plotted."""

    def plot(self, directory: str | Path, curves: dict | None = None) -> list[Path]:
        """Every figure that the fit has data for, as PNG and SVG; returns the files."""
        return plot_all(self, directory, curves)


def load(source: str | Path | pd.DataFrame, **columns: Any) -> Runs:
    """A checked table of runs; the arguments are those of ``laws.data.table.load``."""
    return Runs(**vars(tables.load(source, **columns)))


def read_fit(path: str | Path, law: str | Law | None = None) -> FitResult:
    """A fit from ``fit.json``, as ``laws.results.results.read_fit`` reads it."""
    return FitResult(**vars(results.read_fit(path, law)))
