"""The log of a study's scores: nothing can be taken back, and the promise of the intervals is counted."""

import json
import re

import numpy as np
import pytest

from isoflop import cli
from laws.base.errors import InputError
from laws.base.json_files import content_hash
from laws.results.report_parts import InputFile
from laws.uses.calibration import calibration
from laws.uses.score_log import LoggedScore, ScoreLog, append_score, read_score_log
from laws.uses.scoring import MeasuredLoss, NaiveForecast, NaiveForecasts, PredictedLoss, Score, ScoredRuns


def score(number: int, measured: float, level: float = 0.95, half: float = 0.02) -> Score:
    """A score of a prediction of 2 nats."""
    low, high = 2 * np.exp(-half), 2 * np.exp(half)
    return Score(
        prediction=InputFile(f"p{number}.json", f"{number:064d}"),
        target={"c": 1e12 * 2**number},
        predicted=PredictedLoss(2.0, (low, high), level),
        measured=MeasuredLoss(measured, measured, "the only run", {"n": 1e6}, "r0", 1, 1, measured),
        abs_rel_error=abs(2 / measured - 1),
        covered=bool(low <= measured <= high),
        interval_width=high - low,
        relative_width=(high - low) / 2,
        informative=True,
        baselines=NaiveForecasts(NaiveForecast(2.5, abs(2.5 / measured - 1)), None),
        runs=ScoredRuns(1, abs(2 / measured - 1), abs(2 / measured - 1), 1.0, {"loss": np.array([measured])}),
        extrapolation={"c": 2.0},
        preregistered=True,
        frozen_at=1e9 + number,
        first_record_at=2e9,
        warnings=(),
    )


@pytest.fixture
def log(tmp_path):
    path = tmp_path / "study" / "scores.jsonl"
    for number in range(3):
        append_score(score(number, 2 * np.exp(0.01 * (number - 1))), path)
    return path


@pytest.mark.parametrize(
    ("schema", "message"),
    [({}, r"no schema number, before schema 2; this one reads 2"), ({"schema": 9}, "schema 9; this")],
)
def test_a_line_of_another_version_is_refused_by_name(log, schema, message):
    lines = log.read_text().splitlines()
    entry = {key: value for key, value in json.loads(lines[0]).items() if key not in ("schema", "sha256")} | schema
    log.write_text("\n".join([json.dumps(entry | {"sha256": content_hash(entry)}), *lines[1:]]) + "\n")
    with pytest.raises(InputError, match=f"line 1 is a score of another version .{message}"):
        read_score_log(log)


def test_every_score_is_kept_in_order_and_said_once(log):
    before = log.read_text()
    assert len(append_score(score(2, 2 * np.exp(0.01)), log).entries) == 3  # the same again
    assert log.read_text() == before
    assert len(append_score(score(2, 2 * np.exp(0.015)), log).entries) == 4  # more was measured since
    found = calibration(read_score_log(log))
    assert found.n_scores == 4 and len(found.forecasts) == len(found.frame()) == 3
    assert [row.distance for row in found.forecasts] == pytest.approx([-0.5, 0, 0.75])
    assert found.forecasts[-1].bias == pytest.approx(0.25 / 3)


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda lines: [lines[0].replace('"covered": true', '"covered": false'), *lines[1:]], "line 1 was changed"),
        (lambda lines: [lines[0], lines[2]], "before line 2 was taken out"),
        (lambda lines: lines[1:], "before line 1 was taken out"),
        (lambda lines: [lines[1], lines[0], lines[2]], "before line 1"),
        (lambda lines: [*lines, "{"], "line 4 is not JSON"),
        (lambda lines: [*lines, "{}"], "line 4 is not a score"),
    ],
)
def test_a_log_that_was_tampered_with_is_refused(log, harm, said):
    text = "\n".join(harm(log.read_text().splitlines())) + "\n"
    log.write_text(text)
    for use in (read_score_log, lambda path: append_score(score(3, 2.0), path)):
        with pytest.raises(InputError, match=said):
            use(log)
    assert log.read_text() == text


@pytest.mark.parametrize("left", [1, 40, -2])
def test_a_line_that_a_crash_cut_off_is_reported_and_replaced(log, left):
    """The whole lines stay as they are, and the chain goes on from the last of them."""
    *whole, last = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join(whole) + last[:left])
    read = read_score_log(log)
    assert [entry.target["c"] for entry in read.entries] == [1e12, 2e12]
    assert "line 3, the last, was cut off" in read.warnings[0]
    assert calibration(read).warnings == read.warnings
    again = append_score(score(3, 2.0), log)
    assert "line 3, which was cut off, is replaced" in again.warnings[0]
    assert log.read_bytes().startswith(b"".join(whole))
    assert read_score_log(log) == ScoreLog(again.entries) and len(again.entries) == 3


def test_a_last_line_that_lacks_only_its_line_feed_is_whole(log):
    log.write_bytes(log.read_bytes()[:-1])
    assert read_score_log(log).warnings == () and len(read_score_log(log).entries) == 3
    append_score(score(3, 2.0), log)
    assert len(read_score_log(log).entries) == 4


def test_the_promise_is_counted():
    """Exact binomial intervals of Clopper and Pearson, as tables have them."""

    def found(hits, count, level):
        scores = [score(i, 2.0 if i < hits else 2.5, level) for i in range(count)]
        shared = [field for field in LoggedScore.__dataclass_fields__ if field in Score.__dataclass_fields__]
        entries = [
            LoggedScore(
                **{field: getattr(s, field) for field in shared} | {"prediction": s.prediction.sha256},
                scored_at=0.0,
                previous=None,
                sha256="",
            )
            for s in scores
        ]
        return calibration(ScoreLog(tuple(entries)))

    last = found(9, 10, 0.95).forecasts[-1]
    assert last.interval == pytest.approx((0.5550, 0.9975), abs=1e-4)
    assert found(3, 3, 0.95).forecasts[-1].interval == pytest.approx((0.2924, 1.0), abs=1e-4)
    assert "nothing speaks against" in found(9, 10, 0.95).verdict
    assert "too narrow" in found(6, 10, 0.95).verdict
    assert "too wide" in found(20, 20, 0.5).verdict
    with pytest.raises(InputError, match="no score"):
        calibration(ScoreLog(()))


def test_the_command(log, capsys, tmp_path):
    assert cli.main(["calibration", str(log), f"--plot={tmp_path / 'c.png'}"]) == 0
    out = capsys.readouterr().out
    assert "100% of 3 forecasts inside intervals of 95%" in out and len(re.findall(r"inside\b", out)) >= 3
    assert (tmp_path / "c.png").stat().st_size > 10_000
    assert cli.main(["calibration", str(log), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["forecasts"][0]["measured"] == pytest.approx(2 * np.exp(-0.01))
    assert cli.main(["calibration", str(tmp_path / "none.jsonl")]) == 2
    assert "none.jsonl" in capsys.readouterr().err
