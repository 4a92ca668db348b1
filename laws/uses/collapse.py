"""Do learning curves of all sizes fall onto one? Where they do not, a size was trained on another recipe."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from laws.base.errors import InputError

POINTS = 50
LATE = 0.5  # share of the training from which curves are compared: before, warm-up still shows
Curves = Mapping[str, tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Collapse:
    """Curves on the same scale, and how far they lie apart.

    Args:
        x: share of the training.
        curves: (L(x T) - floor) / (L(T) - floor) of every run, in the order of ``runs``.
        spread: standard deviation over mean of the curves at each x; nothing at the end, by construction.
        noise: the same of L - floor between repeated runs of one size, pooled; None where nothing is repeated.
        runs: names.
    """

    x: Float[np.ndarray, " points"]
    curves: Float[np.ndarray, "runs points"]
    spread: Float[np.ndarray, " points"]
    noise: Float[np.ndarray, " points"] | None
    runs: tuple[str, ...]

    @property
    def late(self) -> Bool[np.ndarray, " points"]:
        """The part in which the curves are judged: the end itself, where they are one by construction, left out."""
        return (self.x >= LATE) & (self.x < 1)

    @property
    def holds(self) -> bool | None:
        """Whether the curves lie closer together than repeated runs do; None where nothing is repeated."""
        if self.noise is None:
            return None
        return bool(np.median(self.spread[self.late] / self.noise[self.late]) < 1)

    def apart(self) -> dict[str, float]:
        """Run -> how far its late curve lies from the median of the others, relative, largest first."""
        late = self.curves[:, self.late]
        rows = np.arange(len(late))
        off = {
            name: float(np.mean(np.abs(late[i] / np.median(late[rows != i], axis=0) - 1)))
            for i, name in enumerate(self.runs)
        }
        return dict(sorted(off.items(), key=lambda item: -item[1]))


def collapse(curves: Curves, floor: float, sizes: Mapping[str, Hashable] | None = None) -> Collapse:
    """Learning curves of several sizes, each at its own compute-optimal horizon, brought to one scale.

    Args:
        curves: run -> (tokens, loss) in order, as ``laws.data.curves.load_curves`` reads them: of an evaluation, or
            smoothed. The last point of each is its finished loss.
        floor: irreducible loss, as E of a law with an offset fitted to the finished losses.
        sizes: run -> what its repeats have in common, for the noise between them.

    Raises:
        InputError: fewer than three curves, or one that ends at or below the floor.

    Source: Qiu et al. 2025, arXiv 2507.02119, equations 1 to 3.
    """
    if len(curves) < 3:
        raise InputError(
            f"{len(curves)} learning curves are too few to say whether they collapse; at least 3 are needed"
        )
    x = np.linspace(0, 1, POINTS + 1)[1:]
    above = np.array([np.interp(x, tokens / tokens[-1], loss) for tokens, loss in curves.values()]) - floor
    low = [run for run, end in zip(curves, above[:, -1], strict=True) if end <= 0]
    if low:
        raise InputError(f"run {low[0]} ends at or below the irreducible loss {floor:.6g}")
    scaled = above / above[:, -1:]
    return Collapse(x, scaled, _deviation(scaled), _between_repeats(above, tuple(curves), sizes or {}), tuple(curves))


def _deviation(values: Float[np.ndarray, "runs points"]) -> Float[np.ndarray, " points"]:
    return values.std(axis=0, ddof=1) / values.mean(axis=0)


def _between_repeats(
    above: Float[np.ndarray, "runs points"], runs: tuple[str, ...], sizes: Mapping[str, Hashable]
) -> Float[np.ndarray, " points"] | None:
    """Root mean square over the sizes of the relative deviation between repeated runs."""
    groups: dict[Hashable, list[int]] = {}
    for row, run in enumerate(runs):
        if run in sizes:
            groups.setdefault(sizes[run], []).append(row)
    found = [_deviation(above[rows]) for rows in groups.values() if len(rows) > 1]
    return np.sqrt(np.mean(np.square(found), axis=0)) if found else None
