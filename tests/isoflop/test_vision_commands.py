"""Images from the command line: plan, train, evaluate, export, cross-validate, reproduce."""

import json
import re
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image
from tiers import tiered

from isoflop.cli import main

RUN = """
from ml_collections import ConfigDict
def get_config(arg=""):
    base = {"task": "vision", "batch_size": 32, "duration": {"epochs": 2.0}, "model": {"name": "mlp", "width": 16},
            "data": {"dataset": "digits"}, "log": {"every": 20}}
    if arg == "folds":
        from sweeps.design import folds
        base |= {"evaluation": {"split": "validation"}}
        base["data"]["test"] = 0.0
        return ConfigDict({"base": base, "design": folds(3)})
    return ConfigDict(base)
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the config file and a run that has ended."""
    folder = tmp_path_factory.mktemp("vision")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Path("digits.py").write_text(RUN)
        assert main(["train", "--config=digits.py", "--workdir=run"]) == 0
        yield folder


def said(capsys, *argv, code=0):
    capsys.readouterr()
    found = main([*argv, "--json"])
    out = capsys.readouterr()
    assert found == code, out.err
    return json.loads(out.out) if code != 2 else out.err


def test_evaluate_says_what_the_record_says_and_more(place, capsys):
    found = said(capsys, "evaluate", "run", "--predictions=out.csv")
    record = json.loads((place / "run/result.json").read_text())
    for name in ("loss", "accuracy", "f1", "calibration_error"):
        assert found[name] == pytest.approx(record[name], rel=1e-6)
    assert sum(map(sum, found["confusion"])) == record["eval_examples"] == 359
    assert [row["class"] for row in found["classes"]] == [str(i) for i in range(10)]
    table = pd.read_csv("out.csv")
    assert (table.label == table.prediction).mean() == pytest.approx(found["accuracy"])
    assert table.filter(like="p_").sum(axis=1).round(6).eq(1).all()
    assert main(["evaluate", "run"]) == 0
    assert "label \\ predicted" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["evaluate", "nothing"], "nothing: no run directory"),
        (["evaluate", "run", "--split=validation"], "data.validation: 0, so there is no validation split"),
        (["evaluate", "run", "--predictions=out.txt"], "--predictions: out.txt ends neither in .csv nor in .parquet"),
        (["evaluate", "run", "--step=3"], "no checkpoint of step 3"),
        (["reproduce", "--config=digits.py"], "no baseline; one has a design of seeds or folds"),
    ],
)
def test_bad_usage_is_one_line(place, capsys, argv, message):
    error = said(capsys, *argv, code=2)
    assert message in error and error.count("\n") == 1


def test_cross_validation_reproduces_its_mean_or_says_that_it_does_not(place, capsys):
    config = "--config=digits.py:folds"
    first = said(capsys, "reproduce", config, "--workers=1")
    assert first["within"] is None and first["measured"]["runs"] == 3
    mean = first["measured"]["mean"]
    found = said(capsys, "collect", "runs/reproduce/digits", "--mean=accuracy,loss")
    rows = pd.read_parquet("runs/reproduce/digits/runs.parquet")
    assert rows.eval_examples.sum() == 1797 and sorted(rows["data.fold"]) == [0, 1, 2]
    assert found["means"][0]["accuracy"] == pytest.approx(
        {"mean": rows.accuracy.mean(), "error": rows.accuracy.sem(), "deviation": rows.accuracy.std(), "runs": 3}
    )
    # Nothing is trained again.
    tolerance = "--config.expected.tolerance=0.01"
    good = said(capsys, "reproduce", config, tolerance, f"--config.expected.mean={mean + 0.005}")
    assert good["within"] is True and good["measured"] == first["measured"]
    assert (
        said(capsys, "reproduce", config, tolerance, f"--config.expected.mean={mean + 0.02}", code=1)["within"] is False
    )
    assert main(["reproduce", config, tolerance, f"--config.expected.mean={mean - 0.02}"]) == 1
    assert "OUTSIDE" in capsys.readouterr().out
    assert "give both mean and tolerance" in said(capsys, "reproduce", config, tolerance, code=2)


def test_evaluate_probes_and_draws(place, capsys):
    found = said(capsys, "evaluate", "run", "--probe=5", "--figures=drawn")
    assert 0.5 < found["probe_5_shot"] < 1 and found["figures"] == ["drawn/confusion.png", "drawn/filters.png"]
    for name in found["figures"]:
        with Image.open(name) as drawn:
            assert drawn.width > 300 and len(drawn.convert("L").getcolors()) > 20
    assert main(["evaluate", "run", "--probe=5"]) == 0
    assert f"probe_5_shot       {found['probe_5_shot']:.5g}" in capsys.readouterr().out
    assert "2000 shots of a class with 142 images" in said(capsys, "evaluate", "run", "--probe=2000", code=2)


def test_attention_is_drawn_and_what_was_chosen_by_may_be_looked_at(place, capsys):
    vit = ["--config.model.name=vit", "--config.model.width=8", "--config.model.depth=1"]
    vit += ["--config.duration.epochs=0.5"]
    chosen = ["--config.data.validation=0.1", "--config.early_stopping.patience=2", "--config.log.evaluate_every=10"]
    trained = said(capsys, "train", "--config=digits.py", *vit, *chosen, "--workdir=vit")
    assert trained["best_step"] and trained["eval_set"] == "dataset digits (test)"
    found = said(capsys, "evaluate", "vit", "--split=validation", "--figures=seen")
    assert found["eval_set"] == "dataset digits (validation)"
    assert set(found["figures"]) == {"seen/confusion.png", "seen/filters.png", "seen/attention.png"}
    refused = said(capsys, "train", "--config=digits.py", *vit, *chosen, "--config.evaluation.split=validation",
                   "--workdir=reported", code=2)  # fmt: skip
    assert "early_stopping.patience: chooses by the validation images" in refused


def test_a_fine_tuned_run_names_its_parent(place, capsys):
    parent = json.loads((place / "run/result.json").read_text())
    argv = ["--config=digits.py", "--config.init_from.run=run", "--config.init_from.reinit=('head/.*',)"]
    found = said(capsys, "train", *argv, "--workdir=child")
    assert found["parent"] == f"{parent['run_id']}:{parent['steps']}"
    # Onto another set, of other classes: only with a new head.
    other = ["--config.data.dataset=procedural", "--config.data.dataset_args.size=8", "--config.duration.epochs=None"]
    other += ["--config.data.dataset_args.num_classes=3", "--config.data.dataset_args.species=2"]
    other += ["--config.data.dataset_args.frequency=1", "--config.duration.steps=5"]
    headless = said(capsys, "train", argv[0], argv[1], *other, "--workdir=foreign", code=2)
    assert "init_from.run: run does not fit: head/bias is [10] there and [3] here; head/kernel" in headless
    tuned = said(capsys, "train", *argv, *other, "--workdir=foreign")
    assert tuned["num_classes"] == 3 and tuned["steps"] == 5
    wrong = said(capsys, "train", *argv, "--config.model.width=8", "--workdir=other", code=2)
    assert "init_from.run: run does not fit: hidden1/bias is [16] there and [8] here" in wrong
    assert not Path("other").exists()


RESULTS = Path(__file__).parents[2] / "docs" / "results" / "images.md"


SPECS = re.findall(r"isoflop plan --config=(configs/vision/\S+?)`", RESULTS.read_text())


@pytest.mark.parametrize("spec", tiered(SPECS, SPECS[-1:]))
def test_plans_of_the_docs_need_no_data(tmp_path, monkeypatch, capsys, spec):
    monkeypatch.setenv("ISOFLOP_CACHE", str(tmp_path))
    for name in ("http_proxy", "https_proxy", "HTTPS_PROXY"):  # nothing is fetched where there is a network either
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    found = said(capsys, "plan", f"--config={spec}", f"--config.base.data.dataset_args.data_dir={tmp_path}")
    (note,) = found["notes"]
    assert "memory and time are not measured: dataset" in note and str(tmp_path) in note
    assert found["hours"] is None and all(row["params_total"] and row["flops_exact"] for row in found["points"])
