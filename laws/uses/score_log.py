"""Every score of a study in the order in which it was made.

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

import msgspec

from laws.base.errors import InputError
from laws.base.json_files import content_hash
from laws.uses.scoring import MeasuredLoss, PredictedLoss, Score

KIND = "isoflop.scored"
SCHEMA = 2  # number of the layout of a line; it rises whenever a key changes its name or meaning
SCORED = (
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
class LoggedScore:
    """A line of the log; what it has in common with ``laws.uses.scoring.Score`` is described there.

    Args:
        prediction: hash of the frozen prediction.
        scored_at: when the line was written, unix seconds.
        previous, sha256: hash of the line before, None in the first, and of this one.
    """

    prediction: str
    target: dict[str, float]
    predicted: PredictedLoss
    measured: MeasuredLoss
    abs_rel_error: float
    covered: bool
    relative_width: float
    preregistered: bool | None
    frozen_at: float
    first_record_at: float | None
    scored_at: float
    previous: str | None
    sha256: str


@dataclass(frozen=True)
class ScoreLog:
    """The scores of a study.

    Args:
        entries: oldest first.
        warnings: of a last line that was cut off, which is not among them.
    """

    entries: tuple[LoggedScore, ...]
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
        raise InputError(
            f"{path}: no readable log of scores ({error.strerror})", command="isoflop score prediction.json TABLE"
        ) from error
    lines, whole = _parse(content, path)
    torn = f"{path}: line {len(lines) + 1}, the last, was cut off: it is left out, and the next score replaces it"
    return ScoreLog(_typed(lines, path), (torn,) if whole < len(content) else ())


def _typed(lines: list[dict[str, Any]], path: str | Path) -> tuple[LoggedScore, ...]:
    """The lines of a log as typed values."""
    entries = []
    for number, line in enumerate(lines, 1):
        try:
            measured = MeasuredLoss.from_dict(line["measured"])
            entries.append(msgspec.convert(line | {"measured": vars(measured)}, LoggedScore))
        except (KeyError, TypeError, msgspec.ValidationError) as error:
            raise InputError(f"{path}: line {number} is not a score ({error})") from error
    return tuple(entries)


def _parse(content: bytes, path: str | Path) -> tuple[list[dict[str, Any]], int]:
    """The lines of a log as they were written, and the number of bytes up to the end of the last whole line.

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
        score = json.loads(line)
    except ValueError as error:
        raise InputError(f"{path}: line {number} is not JSON") from error
    if not isinstance(score, dict) or score.get("kind") != KIND:
        raise InputError(f"{path}: line {number} is not a score")
    if score.get("sha256") != content_hash(score):
        raise InputError(f"{path}: line {number} was changed after it was written (its hash does not match)")
    if score.get("schema") != SCHEMA:
        version = f"schema {score['schema']}" if "schema" in score else "no schema number, before schema 2"
        raise InputError(f"{path}: line {number} is a score of another version ({version}; this one reads {SCHEMA})")
    if score["previous"] != (entries[-1]["sha256"] if entries else None):
        raise InputError(f"{path}: a line before line {number} was taken out or put in (their hashes do not match)")
    entries.append(score)


def append_score(score: Score, path: str | Path) -> ScoreLog:
    """The log with one more line, unless the last score of the same prediction is the same.

    Args:
        score: from ``laws.uses.scoring.score``.
        path: the log; made if it is not there. Others who write at the same time wait.

    Raises:
        InputError: a whole line of the log is not as it was written (``read_score_log``), or it cannot be written.

    Example:
        >>> import pathlib, tempfile, time, numpy as np, pandas as pd, laws
        >>> c, folder = np.geomspace(1e18, 1e21, 8), pathlib.Path(tempfile.mkdtemp())
        >>> table = pd.DataFrame({"c": c, "loss": 2 + 1e3 * c**-0.15, "ended_at": 0.0})
        >>> fit = laws.load(table, c="c").fit("power_offset_c", resamples=0)
        >>> frozen = laws.freeze(fit, folder / "prediction.json", c=1e23)
        >>> table.loc[len(table)] = [1e23, 2.36, time.time() + 1]
        >>> score = laws.score(folder / "prediction.json", laws.load(table, c="c"))
        >>> len(laws.append_score(score, folder / "scores.jsonl").entries)
        1
        >>> laws.calibration(folder / "scores.jsonl").n_scores
        1
    """
    path, content_of_score = Path(path), score.to_dict()
    scored = {key: content_of_score[key] for key in SCORED} | {"prediction": score.prediction.sha256}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            content = file.read()
            lines, whole = _parse(content, path)
            earlier = [line for line in lines if line["prediction"] == scored["prediction"]]
            if earlier and all(earlier[-1][key] == scored[key] for key in scored):
                return ScoreLog(_typed(lines, path))
            previous = lines[-1]["sha256"] if lines else None
            line = {"kind": KIND, "schema": SCHEMA, "scored_at": time.time(), "previous": previous, **scored}
            line["sha256"] = content_hash(line)
            written = json.dumps(line, allow_nan=False).encode() + b"\n"
            torn = whole < len(content)
            if torn:
                file.truncate(whole)
            elif content and not content.endswith(b"\n"):
                written = b"\n" + written
            file.write(written)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise InputError(f"{path}: the log of scores cannot be written ({error.strerror})") from error
    warnings = (f"{path}: line {len(lines) + 1}, which was cut off, is replaced by this score",) if torn else ()
    return ScoreLog(_typed([*lines, line], path), warnings)
