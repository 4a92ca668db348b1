"""What the intervals of forecasts promised and what they kept, counted over the scores of a study."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from laws.base.errors import InputError
from laws.base.json_files import jsonable
from laws.uses.score_log import LoggedScore, ScoreLog, read_score_log

if TYPE_CHECKING:
    import pandas as pd

KIND = "isoflop.calibration"
CERTAINTY = 0.95  # of the interval of a coverage that was counted on few forecasts


@dataclass(frozen=True)
class CalibrationRow:
    """A scored forecast, and the share of intervals up to it that held what was measured.

    Args:
        frozen_at: when it was frozen, unix seconds.
        target: variable -> value at which it was made.
        abs_rel_error, covered, relative_width, preregistered: as in ``laws.uses.scoring.Score``.
        predicted, measured: loss before and after.
        interval_of_loss, level: its interval and the nominal coverage.
        distance: of the measurement from the middle of the interval, in half widths and logs: beyond 1 it was outside;
            positive if the loss was higher.
        bias: mean distance of all forecasts up to this one.
        coverage, interval: share of them inside their intervals, and its 95% interval (exact binomial).
        nominal: mean level of them.
    """

    frozen_at: float
    target: dict[str, float]
    abs_rel_error: float
    covered: bool
    relative_width: float
    preregistered: bool | None
    predicted: float
    interval_of_loss: tuple[float, float]
    level: float
    measured: float
    distance: float
    bias: float
    coverage: float
    interval: tuple[float, float]
    nominal: float


@dataclass(frozen=True, repr=False)
class Calibration:
    """The forecasts of a study, in the order in which they were frozen.

    Args:
        forecasts: a row each.
        verdict: one line on all of them.
        n_scores: lines of the log; a forecast that was scored again has several.
        warnings: of the log.
    """

    forecasts: tuple[CalibrationRow, ...]
    verdict: str
    n_scores: int
    warnings: tuple[str, ...]

    def frame(self) -> pd.DataFrame:
        """The forecasts as a table: a column for every field of ``CalibrationRow``."""
        import pandas as pd

        return pd.DataFrame([asdict(row) for row in self.forecasts])

    def to_dict(self) -> dict[str, Any]:
        """The calibration as JSON can hold it."""
        return jsonable(
            {
                "kind": KIND,
                "forecasts": [asdict(row) for row in self.forecasts],
                "verdict": self.verdict,
                "scores": self.n_scores,
                "warnings": self.warnings,
            }
        )

    def __repr__(self) -> str:
        return f"<Calibration: {self.verdict}>"


def calibration(log: ScoreLog | str | Path) -> Calibration:
    """What the intervals promised and what they kept, after each forecast in the order in which they were frozen.

    A prediction that was scored again counts once, as it was scored last.

    Args:
        log: path of a log of scores, or what ``laws.append_score`` returned.

    Raises:
        InputError: no such file, a line of it is not as it was written, or there is no score.

    Example:
        >>> import pathlib, tempfile, time, numpy as np, pandas as pd, laws
        >>> c, folder = np.geomspace(1e18, 1e21, 8), pathlib.Path(tempfile.mkdtemp())
        >>> table = pd.DataFrame({"c": c, "loss": 2 + 1e3 * c**-0.15, "ended_at": 0.0})
        >>> fit = laws.load(table, c="c").fit("power_offset_c", resamples=0)
        >>> frozen = laws.freeze(fit, folder / "prediction.json", c=1e23)
        >>> table.loc[len(table)] = [1e23, 2.36, time.time() + 1]
        >>> score = laws.score(folder / "prediction.json", laws.load(table, c="c"))
        >>> log = laws.append_score(score, folder / "scores.jsonl")
        >>> laws.calibration(log).frame().abs_rel_error.round(3).tolist()
        [0.002]
    """
    log = log if isinstance(log, ScoreLog) else read_score_log(log)
    last = {entry.prediction: entry for entry in log.entries}
    ordered = sorted(last.values(), key=lambda entry: entry.frozen_at)
    if not ordered:
        raise InputError("the log holds no score")
    rows = tuple(_row(ordered[:count]) for count in range(1, len(ordered) + 1))
    return Calibration(rows, _verdict(rows), len(log.entries), log.warnings)


def _row(entries: list[LoggedScore]) -> CalibrationRow:
    """The last of some forecasts, and the coverage of all of them."""
    from scipy.stats import binomtest  # half a second that whatever draws no calibration is spared

    entry, hits, distances = entries[-1], sum(entry.covered for entry in entries), [_distance(e) for e in entries]
    low, high = binomtest(hits, len(entries)).proportion_ci(CERTAINTY, "exact")
    return CalibrationRow(
        frozen_at=entry.frozen_at,
        target=entry.target,
        abs_rel_error=entry.abs_rel_error,
        covered=entry.covered,
        relative_width=entry.relative_width,
        preregistered=entry.preregistered,
        predicted=entry.predicted.loss,
        interval_of_loss=entry.predicted.interval,
        level=entry.predicted.level,
        measured=entry.measured.loss,
        distance=distances[-1],
        bias=float(np.mean(distances)),
        coverage=hits / len(entries),
        interval=(float(low), float(high)),
        nominal=float(np.mean([entry.predicted.level for entry in entries])),
    )


def _distance(entry: LoggedScore) -> float:
    """Distance of the measured log loss from the middle of its interval, in half widths."""
    low, high = np.log(entry.predicted.interval)
    return float((np.log(entry.measured.loss) - (low + high) / 2) / ((high - low) / 2))


def _verdict(rows: tuple[CalibrationRow, ...]) -> str:
    """One line on the whole log."""
    last = rows[-1]
    low, high = last.interval
    counted = f"{last.coverage:.0%} of {len(rows)} forecasts inside intervals of {last.nominal:.0%}"
    if high < last.nominal:
        return f"{counted}: the intervals are too narrow"
    if low > last.nominal:
        return f"{counted}: the intervals are too wide"
    return f"{counted}: nothing speaks against them (the true share lies between {low:.0%} and {high:.0%})"
