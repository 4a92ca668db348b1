"""Every score of a study in the order in which it was made, and whether its intervals kept their promise over time.

A line a score, JSON; each line is sealed and holds the seal of the line before it, so that a forecast that went wrong can
neither be changed nor taken out afterwards.
"""

from __future__ import annotations

import fcntl
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from laws.base.errors import InputError
from laws.base.json_files import content_hash, jsonable

KIND = "isoflop.scored"
NAME = "scores.jsonl"
CERTAINTY = 0.95  # of the interval of a coverage that was counted on few forecasts
KEPT = (
    "target",
    "predicted",
    "measured",
    "abs_rel_error",
    "covered",
    "relative_width",
    "blind",
    "frozen_at",
    "first_record_at",
)


def read_score_log(path: str | Path) -> list[dict[str, Any]]:
    """The scores of a study, oldest first.

    Raises:
        InputError: no such file, or a line that is none, that was changed, or before which one was taken out.
    """
    try:
        lines = Path(path).read_text().splitlines()
    except OSError as error:
        raise InputError(f"{path}: no readable log of scores ({error.strerror})") from error
    found: list[dict[str, Any]] = []
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line)
        except ValueError as error:
            raise InputError(f"{path}: line {number} is not JSON") from error
        if not isinstance(entry, dict) or entry.get("kind") != KIND:
            raise InputError(f"{path}: line {number} is not a score")
        if entry.get("sha256") != content_hash(entry):
            raise InputError(f"{path}: line {number} was changed after it was written (its hash does not match)")
        if entry["previous"] != (found[-1]["sha256"] if found else None):
            raise InputError(f"{path}: a line before line {number} was taken out or put in (their hashes do not match)")
        found.append(entry)
    return found


def append_score(score: dict[str, Any], path: str | Path) -> list[dict[str, Any]]:
    """One more line, unless the last score of the same prediction says the same; all lines.

    Args:
        score: from ``laws.uses.preregistration.score``.
        path: the log; made if it is not there. Others who write at the same time wait.

    Raises:
        InputError: the log was tampered with (``read_score_log``) or cannot be written.
    """
    path = Path(path)
    kept = jsonable({key: score[key] for key in KEPT} | {"prediction": score["prediction"]["sha256"]})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            found = read_score_log(path)
            earlier = [entry for entry in found if entry["prediction"] == kept["prediction"]]
            if earlier and all(earlier[-1][key] == kept[key] for key in kept):
                return found
            previous = found[-1]["sha256"] if found else None
            entry = {"kind": KIND, "scored_at": time.time(), "previous": previous, **kept}
            entry["sha256"] = content_hash(entry)
            file.write(json.dumps(entry, allow_nan=False) + "\n")
    except OSError as error:
        raise InputError(f"{path}: the log of scores cannot be written ({error.strerror})") from error
    return [*found, entry]


def _share(hits: int, count: int) -> tuple[float, float]:
    """Interval of a share that was counted (Clopper and Pearson 1934)."""
    from scipy.special import betaincinv

    tail = (1 - CERTAINTY) / 2
    low = float(betaincinv(hits, count - hits + 1, tail)) if hits else 0.0
    high = float(betaincinv(hits + 1, count - hits, 1 - tail)) if hits < count else 1.0
    return low, high


def calibration(entries: list[dict[str, Any]]) -> dict[str, Any]:
    """What the intervals promised and what they kept, after each forecast in the order in which they were frozen.

    A prediction that was scored again counts once, as it was scored last.

    Args:
        entries: from ``read_score_log``.

    Returns:
        ``forecasts``, a row each: ``distance``, how far the measurement lay from the prediction in half widths of its
        interval (beyond 1 it was outside; positive if the loss was higher); then of all up to this one ``coverage``,
        its 95% ``interval`` (exact binomial), the mean ``nominal`` level and the mean ``bias`` of the distances; and the
        ``verdict``.

    Raises:
        InputError: there is no score.
    """
    last = {entry["prediction"]: entry for entry in entries}
    ordered = sorted(last.values(), key=lambda entry: entry["frozen_at"])
    if not ordered:
        raise InputError("the log holds no score")
    rows: list[dict[str, Any]] = []
    for count, entry in enumerate(ordered, 1):
        said, measured = entry["predicted"], entry["measured"]["loss"]
        low, high = np.log(said["interval"])
        distance = float((np.log(measured) - (low + high) / 2) / ((high - low) / 2))
        hits = sum(row["covered"] for row in rows) + entry["covered"]
        levels = [row["level"] for row in rows] + [said["level"]]
        distances = [row["distance"] for row in rows] + [distance]
        kept = {
            key: entry[key] for key in ("frozen_at", "target", "abs_rel_error", "covered", "relative_width", "blind")
        }
        kept |= {"predicted": said["loss"], "interval_of_loss": said["interval"], "level": said["level"]}
        running = {"coverage": hits / count, "interval": _share(hits, count), "nominal": float(np.mean(levels))}
        rows.append(kept | {"measured": measured, "distance": distance, "bias": float(np.mean(distances))} | running)
    return {"kind": "isoflop.calibration", "forecasts": rows, "verdict": _verdict(rows), "scores": len(entries)}


def _verdict(rows: list[dict[str, Any]]) -> str:
    """One line on the whole log."""
    count, (low, high), nominal = len(rows), rows[-1]["interval"], rows[-1]["nominal"]
    said = f"{rows[-1]['coverage']:.0%} of {count} forecasts inside intervals of {nominal:.0%}"
    if high < nominal:
        return f"{said}: the intervals are too narrow"
    if low > nominal:
        return f"{said}: the intervals are too wide"
    return f"{said}: nothing speaks against them (the true share lies between {low:.0%} and {high:.0%})"
