"""Whether the learning curves of all sizes fall onto one: where they do not, a size was trained on another recipe."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from laws.base.errors import InputError
from laws.data.curves import Curves, levelled, smoothed
from laws.results.results import FitResult

POINTS = 50  # shares of the training at which curves are compared
LATE = 0.5  # share of the training from which they are judged: before, warm-up still shows
FEWEST_CURVES = 3  # of which one can lie apart from the others
FLOORS = ("E", "L0")  # names of the irreducible loss in the laws that have one


@dataclass(frozen=True)
class Collapse:
    """Learning curves on one scale, and how far they lie apart.

    Args:
        x: share of the training.
        curves: (L(x T) - E) / (L(T) - E) of every run, in the order of ``runs``.
        spread: standard deviation over mean of the curves at each x; zero at the end, by construction.
        noise: the same of L - E between repeated runs of one size, pooled; None where nothing is repeated.
        runs: names.
        floor: irreducible loss E.
    """

    x: Float[np.ndarray, " points"]
    curves: Float[np.ndarray, "runs points"]
    spread: Float[np.ndarray, " points"]
    noise: Float[np.ndarray, " points"] | None
    runs: tuple[str, ...]
    floor: float

    @property
    def late(self) -> Bool[np.ndarray, " points"]:
        """The part in which the curves are judged, without the end, where they are one by construction."""
        return (self.x >= LATE) & (self.x < 1)

    @property
    def late_spread(self) -> float:
        """Median of the spread over the late part."""
        return float(np.median(self.spread[self.late]))

    @property
    def late_noise(self) -> float | None:
        """Median of the noise over the late part; None where nothing is repeated."""
        return None if self.noise is None else float(np.median(self.noise[self.late]))

    @property
    def holds(self) -> bool | None:
        """Whether the curves lie closer together than repeated runs do; None where nothing is repeated."""
        if self.noise is None:
            return None
        return bool(np.median(self.spread[self.late] / self.noise[self.late]) < 1)

    def apart(self) -> dict[str, float]:
        """Run -> mean distance of its late curve from the median of the others, relative, largest first."""
        late = self.curves[:, self.late]
        rows = np.arange(len(late))
        distance = {
            name: float(np.mean(np.abs(late[i] / np.median(late[rows != i], axis=0) - 1)))
            for i, name in enumerate(self.runs)
        }
        return dict(sorted(distance.items(), key=lambda item: -item[1]))


def collapse(fit: FitResult, curves: Curves) -> Collapse:
    """Learning curves of the runs of a fit, brought to one scale by the irreducible loss of its law.

    Runs that were each trained to their own compute-optimal horizon under one recipe give one curve. A size whose
    learning rate, batch or schedule is not that of the others lies apart, often long before its final loss tells.

    Args:
        fit: of a law with an irreducible loss, to runs that are each compute-optimal.
        curves: from ``laws.load_curves``; noisy losses of training batches are smoothed, and shifted to end at the
            measured loss of the run.

    Returns:
        the curves on one scale, and how far they lie apart; runs of equal size and data are repeats.

    Raises:
        InputError: the law has no irreducible loss, or fewer than three runs have a curve that ends above it.

    Source:
        Qiu et al. 2025, arXiv 2507.02119: compute and reducible loss normalised to one at the end of training.

    Example:
        >>> import numpy as np, pandas as pd, laws
        >>> n = np.geomspace(1e6, 1e9, 8)
        >>> table = pd.DataFrame({"run_id": [f"{size:.0e}" for size in n], "n": n, "d": 20 * n})
        >>> table["loss"] = 1.7 + 60 * table["n"] ** -0.3
        >>> fit = laws.load(table, n="n", d="d").fit("power_offset_n", resamples=0)
        >>> share = np.linspace(0.01, 1, 200)
        >>> curve = lambda run: (run.d * share, 1.7 + (run.loss - 1.7) * share**-0.4)
        >>> found = laws.collapse(fit, {run.run_id: curve(run) for run in table.itertuples()})
        >>> found.late_spread < 1e-3
        True
    """
    constants = dict(fit.report.params) | dict(fit.report.fixed)
    floor = next((constants[name] for name in FLOORS if name in constants), None)
    if floor is None:
        raise InputError(
            f"law '{fit.law.name}' has no irreducible loss ({' or '.join(FLOORS)}), which scales the curves"
        )
    data, config = fit.report.data, fit.report.uncertainty
    last_row = {run: row for row, run in enumerate(data.run)}
    levels, sizes = {}, {}
    for run, row in last_row.items():
        if run in curves and data.loss[row] > floor:
            log_tokens, log_loss = levelled(*curves[run], data.loss[row], config)
            loss = np.exp(smoothed(log_tokens, log_loss, log_tokens[-1] + np.log(_shares()), config))
            if np.isfinite(loss[_shares() >= LATE]).all():
                levels[run], sizes[run] = loss, tuple(values[row] for values in data.values.values())
    if len(levels) < FEWEST_CURVES:
        raise InputError(
            f"{len(levels)} of {len(last_row)} runs have a learning curve to compare; at least {FEWEST_CURVES} are "
            "needed"
        )
    return _collapsed(np.stack(list(levels.values())), tuple(levels), float(floor), sizes)


def collapse_curves(curves: Curves, floor: float, sizes: Mapping[str, Hashable] | None = None) -> Collapse:
    """Learning curves without noise, of an evaluation or smoothed, brought to one scale.

    Args:
        curves: run -> (tokens, loss) in order; the last point of each is its final loss.
        floor: irreducible loss, in the unit of the curves.
        sizes: run -> what its repeats have in common, for the noise between them.

    Raises:
        InputError: fewer than three curves, or one that ends at or below the floor.
    """
    if len(curves) < FEWEST_CURVES:
        raise InputError(
            f"{len(curves)} learning curves are too few to say whether they collapse; at least {FEWEST_CURVES} are needed"
        )
    loss = np.array([np.interp(_shares(), tokens / tokens[-1], loss) for tokens, loss in curves.values()])
    low = [run for run, end in zip(curves, loss[:, -1], strict=True) if end <= floor]
    if low:
        raise InputError(f"run {low[0]} ends at or below the irreducible loss {floor:.6g}")
    return _collapsed(loss, tuple(curves), floor, sizes or {})


def _shares() -> Float[np.ndarray, " points"]:
    return np.linspace(0, 1, POINTS + 1)[1:]


def _collapsed(
    loss: Float[np.ndarray, "runs points"], runs: tuple[str, ...], floor: float, sizes: Mapping[str, Hashable]
) -> Collapse:
    above = loss - floor
    scaled = above / above[:, -1:]
    return Collapse(_shares(), scaled, _deviation(scaled), _between_repeats(above, runs, sizes), runs, floor)


def _deviation(values: Float[np.ndarray, "runs points"]) -> Float[np.ndarray, " points"]:
    """Standard deviation over mean, at each point."""
    return values.std(axis=0, ddof=1) / values.mean(axis=0)


def _between_repeats(
    above: Float[np.ndarray, "runs points"], runs: tuple[str, ...], sizes: Mapping[str, Hashable]
) -> Float[np.ndarray, " points"] | None:
    """Root mean square over the sizes of the relative deviation between repeated runs."""
    groups: dict[Hashable, list[int]] = {}
    for row, run in enumerate(runs):
        if run in sizes:
            groups.setdefault(sizes[run], []).append(row)
    deviations = [_deviation(above[rows]) for rows in groups.values() if len(rows) > 1]
    return np.sqrt(np.mean(np.square(deviations), axis=0)) if deviations else None
