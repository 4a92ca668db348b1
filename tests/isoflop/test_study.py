"""`isoflop study`: the demo's design keeps its promises, and a study grows where a minimum lies at an edge."""

import json
from pathlib import Path

import pandas as pd
import pytest

from configs.lm import demo, hour
from isoflop import cli
from isoflop.commands import study
from isoflop.config_file import complete
from sweeps import collect
from sweeps.plan import plan
from training.errors import BadInput


@pytest.fixture
def measured(monkeypatch, tmp_path):
    """Writes the table that a sweep directory would be collected into: losses by budget and width."""

    def write(losses: dict[float, dict[int, list[float]]]):
        rows = [
            {"status": "completed", "budget": budget, "model.width": width, "loss": loss}
            for budget, sizes in losses.items()
            for width, seeds in sizes.items()
            for loss in seeds
        ]
        pd.DataFrame([*rows, {**rows[0], "status": "diverged", "loss": -1.0}]).to_parquet(tmp_path / "runs.parquet")
        monkeypatch.setattr(collect, "collect", lambda sweep: tmp_path / "runs.parquet")
        return tmp_path

    return write


INSIDE = {16: [2.1], 24: [2.0, 2.02], 32: [2.05]}
BELOW = {16: [1.9], 24: [2.0], 32: [2.1]}
ABOVE = {16: [2.2], 24: [2.1], 32: [1.9, 2.0]}


def widths(points):
    assert all(point["duration.flops"] == point["label.budget"] for point in points)
    return {point["label.budget"]: point["model.width"] for point in points}


def test_a_minimum_at_an_edge_asks_for_the_next_width(measured):
    sweep = measured({1e11: BELOW, 2e11: INSIDE, 4e11: ABOVE, 8e11: ABOVE})
    assert widths(study.edges(sweep, "budget<8e11", "model.width")) == {1e11: 8, 4e11: 40}
    assert widths(study.edges(sweep, "budget==8e11", "model.width")) == {8e11: 40}
    assert study.edges(measured({2e11: INSIDE}), "budget<8e11", "model.width") == []
    rising = lambda path: pd.read_parquet(path).assign(error=lambda t: t["model.width"]).to_parquet(path)
    rising(measured({2e11: INSIDE}) / "runs.parquet")
    assert widths(study.edges(sweep, "budget<8e11", "model.width", "error")) == {2e11: 8}


def test_an_edge_that_is_better_by_less_than_the_noise_asks_for_nothing(measured):
    # Seeds differ by 0.1 around 2: a standard error of the difference of two single runs is 0.07 of the loss.
    noisy = {16: [2.0], 24: [2.05], 32: [2.2, 2.3, 2.4]}
    assert study.edges(measured({1e11: noisy}), "budget<8e11", "model.width") == []
    clear = {16: [2.0], 24: [2.25], 32: [2.2, 2.3, 2.4]}
    assert widths(study.edges(measured({1e11: clear}), "budget<8e11", "model.width")) == {1e11: 8}
    assert widths(study.edges(measured({1e11: {16: [2.0], 24: [2.01]}}), "budget<8e11", "model.width")) == {1e11: 8}


@pytest.mark.parametrize(
    ("sizes", "following"),
    [([16, 24, 32], 40), ([32, 24, 16], 8), ([16, 32], 64), ([8, 4, 2], 0), ([1e4, 2.5e4], 60000), ([7], 0)],
)
def test_the_next_size_keeps_the_ratio_and_the_divisor(sizes, following):
    assert study.beyond(sizes) == pytest.approx(following)


@pytest.mark.parametrize(("value", "text"), [(1e12, "1e+12"), (1.5e11, "1.5e+11"), (1234567891, "1234567891.0")])
def test_budgets_are_said_without_rounding(value, text):
    assert study.said(value) == text and float(text) == value


def test_a_study_grows_until_minima_are_inside_and_says_so(measured, monkeypatch, capsys, tmp_path):
    tables = iter([{1e11: INSIDE, 4e11: ABOVE}, {1e11: INSIDE, 4e11: {**ABOVE, 48: [2.3]}}])
    said = []

    def say(*words, check=True):
        said.append([str(word) for word in words])
        measured(next(tables))
        return 0

    monkeypatch.setattr(study, "say", say)
    config = complete(demo.get_config())
    study._Steps(config.study, tmp_path, ["--config=demo.py", "--config.base.seed=3"], ["--workers=2"]).grow(
        "budget<8e11"
    )
    folder = [f"--workdir={tmp_path / 'sweep'}", "--where=budget<8e11", "--workers=2"]
    first, second = said
    assert first == ["sweep", "--config=demo.py", "--config.base.seed=3", *folder]
    assert second[3] == f"--points={tmp_path / 'added.json'}"
    assert widths(json.loads((tmp_path / "added.json").read_text())) == {4e11: 40}
    assert (
        "the best size at 4e+11 FLOPs is at the edge of its sizes: model.width = 40 is added" in capsys.readouterr().out
    )


def test_a_forecast_is_frozen_before_its_budget_is_trained_and_never_made_again(monkeypatch, tmp_path):
    said = []

    def say(*words, check=True):
        said.append([str(word) for word in words])
        if words[0] == "predict":
            compute, file = (str(word).partition("=")[2] for word in words[2:])
            Path(file).write_text(json.dumps({"prediction": {"inputs": {"c": float(compute)}}}))
        return 1 if words[0] == "score" else 0

    monkeypatch.setattr(study, "say", say)
    monkeypatch.setattr(study, "edges", lambda *_: [])
    steps = study._Steps(complete(demo.get_config()).study, tmp_path, ["--config=demo.py"], ["--workers=2"])
    assert steps.run([1e12]) == 1, "the code is that of the score"
    names = [words[0] for words in said]
    assert names == ["doctor", "plan", "sweep", "fit", "predict", "sweep", "score", "plot", "report"]
    assert said[2][-2] == said[3][-3] == "--where=budget<1e+12" and said[5][-2] == "--where=budget==1e+12"
    assert said[2][-1] == said[5][-1] == "--workers=2"
    assert {"--law=chinchilla", "--d_column=tokens", "--loss_column=loss", "--target=1e+12"} < set(said[3])
    said.clear()
    steps.run([1e12])
    assert [words[0] for words in said] == ["doctor", "plan", "sweep", "score", "plot", "report"]
    # The forecast was made from the budget that is now held out as well.
    with pytest.raises(BadInput, match="its predictions are of 1e\\+12 FLOPs, and 5.8e\\+11, 1e\\+12 are held out"):
        steps.run([5.8e11, 1e12])


def test_every_held_out_budget_is_predicted_before_the_first_is_trained(monkeypatch, tmp_path):
    said = []

    def say(*words, check=True):
        said.append([str(word) for word in words])
        if words[0] == "predict":
            if len([words for words in said if words[0] == "predict"]) == 2 and not interrupted:
                interrupted.append(True)
                raise KeyboardInterrupt
            compute, file = (str(word).partition("=")[2] for word in words[2:])
            Path(file).write_text(json.dumps({"prediction": {"inputs": {"c": float(compute)}}}))
        return 0

    interrupted = []
    monkeypatch.setattr(study, "say", say)
    monkeypatch.setattr(study, "edges", lambda *_: [])
    steps = study._Steps(complete(demo.get_config()).study, tmp_path, ["--config=demo.py"], [])
    with pytest.raises(KeyboardInterrupt):
        steps.run([5.8e11, 1e12])
    assert steps.run([5.8e11, 1e12]) == 0
    names = [words[0] for words in said]
    cut = ["doctor", "plan", "sweep", "fit", "predict", "predict"]
    again = ["doctor", "plan", "predict", "sweep", "score", "sweep", "score", "plot", "report"]
    assert names == cut + again, "the law is fitted once"
    assert {"--where=budget<5.8e+11", "--target=1e+12"} < set(said[3])
    assert [words[-1] for words in said if words[0] == "sweep"][1:] == [
        "--where=budget==5.8e+11",
        "--where=budget==1e+12",
    ]
    frozen = [words[1] for words in said if words[0] == "score"]
    assert frozen == [str(tmp_path / "prediction_5.8e+11.json"), str(tmp_path / "prediction.json")]


def test_a_step_that_fails_ends_the_study(capsys):
    with pytest.raises(study.StepFailed, match="isoflop fit failed"):
        study.say("fit", "missing.csv")
    captured = capsys.readouterr()
    assert "$ isoflop fit missing.csv" in captured.out and "missing.csv" in captured.err


@pytest.mark.parametrize(("code", "stop"), [(130, KeyboardInterrupt), (143, cli.Terminated)])
def test_a_stopped_step_stops_the_study(monkeypatch, code, stop):
    monkeypatch.setattr(study.cli, "main", lambda argv: code)
    with pytest.raises(stop):
        study.say("score", "prediction.json", check=False)


def test_the_design_keeps_its_promises():
    """At least five sizes of a budget, three seeds of one, 400 steps, one epoch, small batches; FLOPs as budgeted."""
    found = plan(complete(demo.get_config()))
    assert not found.refused
    table = pd.DataFrame(
        [point.labels | {"width": point.config.model.width} | dict(point.config.derived) for point in found.points]
    )
    assert sorted(table.budget.unique()) == sorted(demo.WIDTHS)
    for budget, group in table.groupby("budget"):
        assert group.width.nunique() >= 5 and sorted(group.width.value_counts())[-1] == 3
        assert (group.flops / budget - 1).abs().max() < 0.01
    assert table.steps.min() >= 400
    assert all(point.config.batch_size * point.config.data.seq_len <= 2048 for point in found.points)


def test_the_hour_on_the_standard_library_repeats_no_data():
    found = plan(complete(hour.get_config("stdlib")))
    assert not found.refused and len({point.labels["budget"] for point in found.points}) == 3
    with pytest.raises(ValueError, match="debian or stdlib"):
        hour.get_config("books")
