"""Freezing and scoring: what was predicted before, against what was measured after."""

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest

import laws
from laws.base.errors import InputError, NotPreregistered
from laws.uses.preregistration import freeze, read_frozen
from laws.uses.scoring import score

BEFORE, AFTER = -1000.0, 1000.0


@pytest.fixture(scope="module")
def files(below, tmp_path_factory):
    """A fit of the smaller budgets, frozen: its files, and what they held when the prediction was made."""
    folder = tmp_path_factory.mktemp("study")
    below.to_parquet(folder / "runs.parquet")
    fit_path = laws.load(folder / "runs.parquet").fit("chinchilla", resamples=50).save(folder / "fit.json")
    freeze(laws.read_fit(fit_path), folder / "prediction.json", fit_path=fit_path, compute=1e12)
    return {path: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def study(sweep, files):
    """The files as they were, and the table in which the largest budget was measured afterwards."""
    for file, content in files.items():
        file.write_bytes(content)
    frozen, fit_path, path = (
        next(iter(files)).with_name(f"{n}") for n in ("prediction.json", "fit.json", "runs.parquet")
    )
    at = json.loads(frozen.read_text())["created_at"]

    def measure(shift: float = AFTER, **changes):
        inflates = sweep.assign(ended_at=[at + (shift if budget == 1e12 else BEFORE) for budget in sweep.budget])
        for (row, column), value in changes.get("cells", {}).items():
            inflates.loc[row, column] = value
        inflates.drop(columns=changes.get("drop", [])).to_parquet(path)
        return path

    return frozen, fit_path, measure


def test_a_date_counts_as_the_end_of_its_day(study, sweep, tmp_path):
    """Of the day of the freezing it does not say which came first; the day before is too early, the next one is not."""
    frozen, _, measure = study
    frozen_at = json.loads(frozen.read_text())["created_at"]
    measure()
    date = pd.Timestamp(frozen_at, unit="s").normalize()
    texts = [f"{date + pd.Timedelta(days=shift):%Y-%m-%d}" for shift in (-1, 0, 1)]
    for shift, text in enumerate(texts, -1):
        table = sweep.assign(ended_at=[text if budget == 1e12 else texts[0] for budget in sweep.budget])
        path = tmp_path / ("runs.csv" if shift else "runs.parquet")
        table.to_csv(path, index=False) if shift else table.assign(ended_at=pd.to_datetime(table.ended_at)).to_parquet(
            path
        )
        if shift < 0:
            with pytest.raises(NotPreregistered):
                score(frozen, path)
            continue
        found = score(frozen, path)
        assert found.preregistered is (True if shift else None)
        assert any("on which day its runs ended" in warning for warning in found.warnings) is not bool(shift)


def test_score(study, sweep):
    frozen, _, measure = study
    found = score(frozen, measure())
    prediction, runs = json.loads(frozen.read_text())["prediction"], sweep[sweep.budget == 1e12]
    sizes = runs.params_total.unique()
    nearest = sizes[np.abs(np.log(sizes / prediction["inputs"]["n"])).argmin()]
    first = runs[runs.params_total == nearest].iloc[0]
    assert found.measured.run == first.run_id  # of the repeats the first, whatever their losses
    assert found.measured.run_loss == first.loss
    assert found.measured.n_sizes == len(sizes)
    assert found.measured.lowest_loss == pytest.approx(runs.groupby("params_total").loss.mean().min())
    fit = prediction | json.loads(frozen.read_text())["fit"]["params"]
    law = lambda n, d: fit["E"] + fit["A"] / n ** fit["alpha"] + fit["B"] / d ** fit["beta"]
    beside = law(first.params_total, first.tokens) / law(prediction["inputs"]["n"], prediction["inputs"]["d"])
    assert found.measured.loss == pytest.approx(first.loss / beside, rel=1e-6)
    assert found.abs_rel_error == pytest.approx(abs(found.predicted.loss * beside / first.loss - 1))
    assert found.abs_rel_error < 0.01
    assert found.covered
    assert found.preregistered is True
    assert found.informative
    assert found.interval_width == pytest.approx(found.predicted.interval[1] - found.predicted.interval[0])
    assert found.runs.n == 7
    naive = found.baselines
    assert naive.best_so_far.loss == pytest.approx(sweep[sweep.budget < 1e12].loss.min())
    assert naive.best_so_far.abs_rel_error > 3 * found.abs_rel_error
    assert naive.power_law.abs_rel_error >= 0


def test_files_and_results_say_the_same(study, sweep):
    frozen, _, measure = study
    assert read_frozen(frozen).to_dict() == json.loads(frozen.read_text())
    scored = score(frozen, measure())
    payload = json.loads(json.dumps(scored.to_dict(), allow_nan=False))
    assert payload["kind"] == "isoflop.score" and payload["measured"]["n"] == scored.measured.values["n"]
    assert len(scored.runs.frame()) == scored.runs.n == len(payload["runs"]["rows"]["predicted"])
    assert not any("\n" in repr(result) for result in (scored, read_frozen(frozen)))
    assert "inside the 95% interval" in repr(scored)


def test_a_prediction_younger_than_a_record_fails(study):
    frozen, _, measure = study
    with pytest.raises(NotPreregistered, match="before the prediction was frozen") as error:
        score(frozen, measure(BEFORE))
    assert error.value.exit_code == 1


def test_one_early_record_is_enough_to_fail(study, sweep):
    frozen, _, measure = study
    row = int(sweep[sweep.budget == 1e12].index[3])
    with pytest.raises(NotPreregistered, match=sweep.run_id[row]):
        score(frozen, measure(cells={(row, "ended_at"): 0.0}))


def test_a_changed_fitted_run_is_refused(study):
    frozen, _, measure = study
    with pytest.raises(InputError, match=r"runs\.parquet: changed since .*1 fitted runs .*r000"):
        score(frozen, measure(cells={(0, "loss"): 2.5}))


def test_a_changed_fit_is_refused(study):
    frozen, fit_path, measure = study
    fit_path.write_text(fit_path.read_text().replace('"law"', ' "law"', 1))
    with pytest.raises(InputError, match=r"fit\.json: changed since the prediction was frozen"):
        score(frozen, measure())


def test_a_changed_prediction_is_refused(study):
    frozen, _, measure = study
    content = json.loads(frozen.read_text())
    content["prediction"]["value"] *= 0.99
    frozen.write_text(json.dumps(content))
    with pytest.raises(InputError, match="hash does not match"):
        score(frozen, measure())


def test_a_frozen_prediction_is_never_overwritten(study):
    frozen, fit_path, _ = study
    fitted, before = laws.read_fit(fit_path), frozen.read_text()
    freeze(fitted, frozen, fit_path=fit_path, compute=1e12)
    assert frozen.read_text() == before
    with pytest.raises(InputError, match="already holds another prediction"):
        freeze(fitted, frozen, fit_path=fit_path, compute=2e12)
    assert frozen.read_text() == before


def test_nothing_measured_yet(study, below):
    frozen, _, _ = study
    with pytest.raises(InputError, match="no run was measured at c = 1e"):
        score(frozen, laws.load(below))


def test_without_times_it_is_not_shown_to_be_preregistered(study):
    frozen, _, measure = study
    found = score(frozen, measure(drop=["ended_at"]))
    assert found.preregistered is None
    assert any("ended_at" in text for text in found.warnings)


def test_an_uninformative_interval_is_called_so(study, sweep, tmp_path):
    _, fit_path, _ = study
    fitted = laws.read_fit(fit_path)
    average = fitted.report.model_average
    forms = tuple(dataclasses.replace(form, noise=tuple(0.03 for _ in form.noise)) for form in average.forms)
    noisy = dataclasses.replace(fitted.report, model_average=dataclasses.replace(average, forms=forms))
    freeze(dataclasses.replace(fitted, report=noisy), tmp_path / "p.json", compute=1e12)
    found = score(tmp_path / "p.json", laws.load(sweep.assign(ended_at=9e9)))
    assert found.relative_width > 0.05
    assert not found.informative
    assert any("uninformative" in text for text in found.warnings)


def test_the_measurement_does_not_depend_on_the_losses(study, sweep):
    """So that an interval of one run is compared with one run, and not with the luckiest of several."""
    frozen, _, measure = study
    before = score(frozen, measure()).measured
    others = sweep.index[(sweep.budget == 1e12) & (sweep.run_id != before.run)]
    after = score(frozen, measure(cells={(row, "loss"): 0.5 + 1e-3 * k for k, row in enumerate(others)})).measured
    assert after.loss == before.loss
    assert after.lowest_loss == pytest.approx(0.5, abs=0.01)


def test_prediction_of_one_run(study, sweep, tmp_path):
    _, fit_path, measure = study
    row = sweep[sweep.budget == 1e12].iloc[0]
    freeze(laws.read_fit(fit_path), tmp_path / "one.json", n=float(row.params_total), d=float(row.tokens))
    found = score(tmp_path / "one.json", laws.load(measure(1e6)))
    assert found.measured.loss == pytest.approx(row.loss)
    assert found.runs.n == 1


def test_another_quantity_is_warned_of(sweep, tmp_path):
    """A forecast of one evaluation set says nothing of another."""
    fit = laws.load(sweep[sweep.budget < 1e12].assign(eval_set="c4")).fit("chinchilla", resamples=16)
    freeze(fit, tmp_path / "prediction.json", compute=1e12)
    after = sweep.assign(ended_at=4e9)
    for eval_set, number in (("c4", 0), ("pile", 1)):
        scored = score(tmp_path / "prediction.json", laws.load(after.assign(eval_set=eval_set)))
        assert sum("of eval_set 'c4', and the runs are of 'pile'" in text for text in scored.warnings) == number


def test_the_best_of_each_point_is_scored(sweep, tmp_path):
    """Runs of the target at a bad learning rate are neither its measurement nor repeats of it."""
    fit = laws.load(sweep[sweep.budget < 1e12]).fit("chinchilla", resamples=16)
    freeze(fit, tmp_path / "prediction.json", compute=1e12)
    after = sweep.assign(ended_at=4e9, peak_lr=1e-3)
    bad = after.assign(peak_lr=1e-2, loss=after.loss * 1.1, run_id=after.run_id + "x")
    alone, both = (score(tmp_path / "prediction.json", laws.load(t)) for t in (after, pd.concat([after, bad])))
    assert both.measured == alone.measured and both.runs.n == alone.runs.n == 7
    assert any("differ in peak_lr" in text for text in both.warnings)
