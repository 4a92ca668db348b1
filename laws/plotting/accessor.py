"""``fit.plot``: the figures of a fit, each drawn into given axes or into a new pyplot figure, which it returns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from laws.data.curves import Curves
from laws.plotting.backtest import backtest
from laws.plotting.compute import loss_against_compute, optimum_against_compute
from laws.plotting.floor import floor
from laws.plotting.missing import require_matplotlib
from laws.plotting.panels import given_panels, pyplot_panels
from laws.plotting.runs import isoflop_curves, learning_curves, one_column, residuals
from laws.plotting.style import STYLE
from laws.plotting.surface import surface
from laws.plotting.transfer import transfer
from laws.plotting.uncertainty import clouds, profiles
from laws.results.results import FitResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    ManyAxes: TypeAlias = Sequence[Axes] | np.ndarray


class FitPlots:
    """Figures of a fit: ``fit.plot.isoflop()``, ``fit.plot.loss(ax=axes)``, ...

    Every method draws into given axes, or into a new pyplot figure, and returns the axes: both in the style sheet
    ``laws.plotting.style.STYLE``, whatever style is on. Each raises ``InputError``, in a line that says why, where the
    fit does not hold what it shows.

    Args:
        fitted: the fit.
    """

    def __init__(self, fitted: FitResult):
        self._fitted = fitted

    def _draw(
        self, draw: Callable[..., list[Axes]], axes: Axes | ManyAxes | None, *curves: Curves | None
    ) -> list[Axes]:
        require_matplotlib()
        from matplotlib import interactive, is_interactive, style

        with style.context(STYLE):
            drawn_axes = draw(self._fitted, pyplot_panels if axes is None else given_panels(axes), *curves)
            turned_on = is_interactive()
        interactive(turned_on)  # a notebook's first figure turns it on, and the end of the style would turn it off
        return drawn_axes

    def isoflop(self, ax: Axes | None = None) -> Axes:
        """Loss against parameters at every budget: runs, the law's curves, measured minima and the law's optimum.

        Args:
            ax: where to draw; by default a new figure.

        Returns:
            the axes.

        Raises:
            InputError: the law has no compute optimum, or the runs do not lie on budgets of equal compute.
        """
        return self._draw(isoflop_curves, ax)[0]

    def loss(self, ax: Axes | None = None, curves: Curves | None = None) -> Axes:
        """Loss against training FLOPs: runs, the law at its optimum with its interval, the naive power law.

        Args:
            ax: where to draw; by default a new figure.
            curves: learning curves from ``laws.load_curves``, drawn behind with their envelope.

        Returns:
            the axes.

        Raises:
            InputError: the law has no compute optimum.
        """
        return self._draw(loss_against_compute, ax, curves)[0]

    def optimum(self, axes: ManyAxes | None = None) -> np.ndarray:
        """Compute-optimal parameters and tokens against training FLOPs, with intervals and approaches 1 and 2.

        Args:
            axes: two, for parameters and for tokens; by default of a new figure.

        Returns:
            the axes, an array of panels.

        Raises:
            InputError: the law has no compute optimum, or another number of axes.
        """
        return np.array(self._draw(optimum_against_compute, axes))

    def surface(self, ax: Axes | None = None) -> Axes:
        """Lines of equal loss and of equal compute over parameters and tokens, the runs, and the best splits.

        Args:
            ax: where to draw; by default a new figure.

        Returns:
            the axes.

        Raises:
            InputError: the law has no compute optimum.
        """
        return self._draw(surface, ax)[0]

    def residuals(self, axes: ManyAxes | None = None) -> np.ndarray:
        """Residuals in percent against every variable of the runs.

        Args:
            axes: one a variable; by default of a new figure.

        Returns:
            the axes, an array of panels.

        Raises:
            InputError: another number of axes.
        """
        return np.array(self._draw(residuals, axes))

    def profiles(self, axes: ManyAxes | None = None) -> np.ndarray:
        """Profile deviance of the constants and of what is derived, with the interval's ends.

        Args:
            axes: one a quantity; by default of a new figure.

        Returns:
            the axes, an array of panels.

        Raises:
            InputError: the fit has no profile, or another number of axes.
        """
        return np.array(self._draw(profiles, axes))

    def clouds(self, axes: ManyAxes | None = None) -> np.ndarray:
        """Pairs of fitted quantities, a point a resample, with the contours of 50% and 95% of them.

        Args:
            axes: one a pair; by default of a new figure.

        Returns:
            the axes, an array of panels.

        Raises:
            InputError: the fit has too few resamples or constants, or another number of axes.
        """
        return np.array(self._draw(clouds, axes))

    def backtest(self, ax: Axes | None = None) -> Axes:
        """Forecasts of the largest budget from runs up to each smaller one, with intervals, and what was measured.

        Args:
            ax: where to draw; by default a new figure.

        Returns:
            the axes.

        Raises:
            InputError: the fit has no backtest.
        """
        return self._draw(backtest, ax)[0]

    def floor(self, ax: Axes | None = None) -> Axes:
        """Loss at the target under fits with the floor E held, and which floors lie in its interval.

        Args:
            ax: where to draw; by default a new figure.

        Returns:
            the axes.

        Raises:
            InputError: the fit has no forecasts by floor.
        """
        return self._draw(floor, ax)[0]

    def learning_curves(self, curves: Curves, ax: Axes | None = None) -> Axes:
        """Loss against tokens during training, coloured by size, with the final loss of each run.

        Args:
            curves: learning curves from ``laws.load_curves``.
            ax: where to draw; by default a new figure.

        Returns:
            the axes.

        Raises:
            InputError: no curve is of a fitted run, or the table has no sizes.
        """
        return self._draw(learning_curves, ax, curves)[0]

    def law(self, ax: Axes | None = None) -> Axes:
        """Runs, law and interval against the single variable of the law.

        Args:
            ax: where to draw; by default a new figure.

        Returns:
            the axes.

        Raises:
            InputError: the law reads several variables.
        """
        return self._draw(one_column, ax)[0]

    def transfer(self, axes: ManyAxes | None = None) -> np.ndarray:
        """Loss against data from scratch and from a pre-trained model, and the data transferred.

        Args:
            axes: two, for the loss and for the data transferred; by default of a new figure.

        Returns:
            the axes, an array of panels.

        Raises:
            InputError: the fit is not of the law of transfer, or another number of axes.
        """
        return np.array(self._draw(transfer, axes))
