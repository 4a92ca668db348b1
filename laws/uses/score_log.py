"""Every score of a study in the order in which it was made, and the coverage of its intervals over time.

A line a score, JSON; each line holds a hash of itself and that of the line before it. The hashes have no key: they
detect accidents (an edited line, a lost one, two logs merged), not someone who writes the whole log again. A line that a
crash cut off is reported and written over by the next score; lines lost at the end leave no trace.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import binomtest

from laws.base.errors import InputError
from laws.base.json_files import content_hash, jsonable

KIND = "isoflop.scored"
SCHEMA = 2  # number of the layout of a line; it rises whenever a key changes its name or meaning
NAME = "scores.jsonl"
CERTAINTY = 0.95  # of the interval of a coverage that was counted on few forecasts
KEPT = (
    "target",
    "predicted",
    "measured",
    "abs_rel_error",
    "covered",
    "relative_width",
    "preregistered",
    "frozen_at",
    "first_record_at",
)


@dataclass(frozen=True)
class ScoreLog:
    """The scores of a study.

    Args:
        entries: oldest first.
        warnings: of a last line that was cut off, which is not among them.
    """

    entries: tuple[dict[str, Any], ...]
    warnings: tuple[str, ...] = ()


def read_score_log(path: str | Path) -> ScoreLog:
    """The scores of a study; a last line that was cut off is left out and reported.

    Args:
        path: the log.

    Raises:
        InputError: no such file, or a whole line that is no score of this version, that was changed, or before which one
            is missing.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path}: no readable log of scores ({error.strerror})") from error
    entries, whole = _parse(content, path)
    torn = f"{path}: line {len(entries) + 1}, the last, was cut off: it is left out, and the next score replaces it"
    return ScoreLog(tuple(entries), (torn,) if whole < len(content) else ())


def _parse(content: bytes, path: str | Path) -> tuple[list[dict[str, Any]], int]:
    """The entries of a log, and the number of bytes up to the end of the last whole line.

    A line is whole if a line feed ends it, or if it is valid without.
    """
    *lines, rest = content.split(b"\n")
    entries: list[dict[str, Any]] = []
    for number, line in enumerate(lines, 1):
        _check(line, number, entries, path)
    if not rest:
        return entries, len(content)
    try:
        _check(rest, len(lines) + 1, entries, path)
    except InputError:
        return entries, len(content) - len(rest)
    return entries, len(content)


def _check(line: bytes, number: int, entries: list[dict[str, Any]], path: str | Path) -> None:
    """Appends a line's entry to those before it.

    Raises:
        InputError: it is no score or one of another version, its hash does not match, or the line before it is missing.
    """
    try:
        entry = json.loads(line)
    except ValueError as error:
        raise InputError(f"{path}: line {number} is not JSON") from error
    if not isinstance(entry, dict) or entry.get("kind") != KIND:
        raise InputError(f"{path}: line {number} is not a score")
    if entry.get("sha256") != content_hash(entry):
        raise InputError(f"{path}: line {number} was changed after it was written (its hash does not match)")
    if entry.get("schema") != SCHEMA:
        version = f"schema {entry['schema']}" if "schema" in entry else "no schema number, before schema 2"
        raise InputError(f"{path}: line {number} is a score of another version ({version}; this one reads {SCHEMA})")
    if entry["previous"] != (entries[-1]["sha256"] if entries else None):
        raise InputError(f"{path}: a line before line {number} was taken out or put in (their hashes do not match)")
    entries.append(entry)


def append_score(score: dict[str, Any], path: str | Path) -> ScoreLog:
    """The log with one more line, unless the last score of the same prediction is the same.

    Args:
        score: from ``laws.uses.preregistration.score``.
        path: the log; made if it is not there. Others who write at the same time wait.

    Raises:
        InputError: a whole line of the log is not as it was written (``read_score_log``), or it cannot be written.
    """
    path = Path(path)
    kept = jsonable({key: score[key] for key in KEPT} | {"prediction": score["prediction"]["sha256"]})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            content = file.read()
            found, whole = _parse(content, path)
            earlier = [entry for entry in found if entry["prediction"] == kept["prediction"]]
            torn = whole < len(content)
            reports = (f"{path}: line {len(found) + 1}, which was cut off, is replaced by this score",) if torn else ()
            if earlier and all(earlier[-1][key] == kept[key] for key in kept):
                return ScoreLog(tuple(found))
            previous = found[-1]["sha256"] if found else None
            entry = {"kind": KIND, "schema": SCHEMA, "scored_at": time.time(), "previous": previous, **kept}
            entry["sha256"] = content_hash(entry)
            line = json.dumps(entry, allow_nan=False).encode() + b"\n"
            if torn:
                file.truncate(whole)
            elif content and not content.endswith(b"\n"):
                line = b"\n" + line
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise InputError(f"{path}: the log of scores cannot be written ({error.strerror})") from error
    return ScoreLog((*found, entry), reports)


def calibration(log: ScoreLog) -> dict[str, Any]:
    """What the intervals promised and what they kept, after each forecast in the order in which they were frozen.

    A prediction that was scored again counts once, as it was scored last.

    Args:
        log: from ``read_score_log``.

    Returns:
        ``forecasts``, a row each: ``distance``, how far the measurement lay from the prediction in half widths of its
        interval (beyond 1 it was outside; positive if the loss was higher); then of all up to this one ``coverage``,
        its 95% ``interval`` (exact binomial), the mean ``nominal`` level and the mean ``bias`` of the distances; and the
        ``verdict``, and the log's ``warnings``.

    Raises:
        InputError: there is no score.
    """
    last = {entry["prediction"]: entry for entry in log.entries}
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
            key: entry[key]
            for key in ("frozen_at", "target", "abs_rel_error", "covered", "relative_width", "preregistered")
        }
        kept |= {"predicted": said["loss"], "interval_of_loss": said["interval"], "level": said["level"]}
        running = {
            "coverage": hits / count,
            "interval": tuple(binomtest(hits, count).proportion_ci(CERTAINTY, "exact")),
            "nominal": float(np.mean(levels)),
        }
        rows.append(kept | {"measured": measured, "distance": distance, "bias": float(np.mean(distances))} | running)
    return {
        "kind": "isoflop.calibration",
        "forecasts": rows,
        "verdict": _verdict(rows),
        "scores": len(log.entries),
        "warnings": list(log.warnings),
    }


def _verdict(rows: list[dict[str, Any]]) -> str:
    """One line on the whole log."""
    count, (low, high), nominal = len(rows), rows[-1]["interval"], rows[-1]["nominal"]
    said = f"{rows[-1]['coverage']:.0%} of {count} forecasts inside intervals of {nominal:.0%}"
    if high < nominal:
        return f"{said}: the intervals are too narrow"
    if low > nominal:
        return f"{said}: the intervals are too wide"
    return f"{said}: nothing speaks against them (the true share lies between {low:.0%} and {high:.0%})"
