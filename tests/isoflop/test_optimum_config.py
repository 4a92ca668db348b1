"""`isoflop predict --config`: a config of the optimum and of the budgets below it, which plans and trains as any other."""

import json
import math
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from ml_collections import ConfigDict

import laws
from isoflop import config_file
from isoflop.cli import main
from sweeps import plan as plans, plan_storage
from training import config as configs

sys.path.insert(0, str(Path(__file__).parents[1] / "sweeps"))

import fake as family

RUN = """
from ml_collections import ConfigDict
def get_config(arg=""):
    return ConfigDict({"task": "fake", "batch_size": 4, "model": {"width": 4}, "duration": {"steps": 40}})
"""
BUDGETS, SIZES = (1e6, 2e6, 4e6), (10, 20, 40, 80)


def loss(n, d):
    """The truth: its optimum at 6 N D = C has N = sqrt(C / 6)."""
    return 1.0 + 5 * n**-0.4 + 5 * d**-0.4


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The sweep directory of three budgets of linear models with simulated losses, and its fit."""
    family.install()
    path = tmp_path_factory.mktemp("study")
    design = [
        {"model.width": n, "duration.flops": budget, "label.budget": budget, "seed": seed, "log.every": 7}
        for budget in BUDGETS
        for n in SIZES
        for seed in (0, 1)
    ]
    base = {"task": "fake", "batch_size": 2}
    plan = plans.plan(plans.complete(ConfigDict({"name": "study", "base": base, "design": tuple(design)})))
    plan_storage.add_points(path / "sweep", plan)
    runs = pd.DataFrame([point.counts | point.labels | {"status": "completed"} for point in plan.points])
    rng = np.random.default_rng(0)
    runs["loss"] = loss(runs.params_total, runs.tokens) * np.exp(0.001 * rng.standard_normal(len(runs)))
    runs.to_parquet(path / "sweep" / "runs.parquet")
    laws.load(path / "sweep" / "runs.parquet").fit("chinchilla", resamples=20).save(path / "fit.json")
    return path


def of_a_table(fit, path, **columns):
    """The fit as if it were of a stranger's table, whose name is Python."""
    content = json.loads(fit.read_text())
    content["inputs"] = [{"path": 'x"""\\\nimport os\n.csv', "sha256": None}]
    content["columns"] = {"n": "N", "d": "D", "c": "6ND", "loss": "loss"} | columns
    path.write_text(json.dumps(content))
    return path


@pytest.fixture(autouse=True)
def _family():
    family.install()


def predict(capsys, *argv):
    capsys.readouterr()
    assert main(["predict", *map(str, argv), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def refused(capsys, *argv):
    capsys.readouterr()
    assert main(["predict", *map(str, argv)]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    return lines[0]


def test_the_config_trains_the_optimum_and_the_budgets_below(folder, tmp_path, capsys):
    out = tmp_path / "best.py"
    payload = predict(capsys, folder / "fit.json", "--compute=6.4e7", f"--config={out}", "--rungs=9")
    fit = laws.read_fit(folder / "fit.json")
    assert main(["plan", f"--config={out}", "--nomemory", "--json"]) == 0
    points = json.loads(capsys.readouterr().out)["points"]
    # A quarter each, and none below the smallest budget of the fit.
    assert [point["budget"] for point in points] == [1e6, 4e6, 1.6e7, 6.4e7]
    for point in points:
        assert point["params_total"] == int(fit.optimal(point["budget"])["n"].iloc[0])
        assert point["flops_exact"] == pytest.approx(point["budget"], rel=0.02)
        assert point["batch_size"] == 2, "of the sweep's base"
    single = config_file.load(f"{out}:optimum")
    assert plans.plan(single).points[0].run_id == points[-1]["run_id"]
    assert single.log.every == 7, "which all runs share"
    # What is forecast is in the head of the file, as a person reads it.
    head = out.read_text().split("from ml_collections")[0]
    low, high = fit.forecast(compute=6.4e7).interval
    assert f"[{low:.5g}, {high:.5g}]" in head and "law chinchilla" in head
    assert [rung["budget"] for rung in payload["config"]["ladder"]] == [1e6, 4e6, 1.6e7, 6.4e7]


def test_a_file_is_never_overwritten(folder, tmp_path, capsys):
    out = tmp_path / "best.py"
    out.write_text("mine")
    assert "exists" in refused(capsys, folder / "fit.json", "--compute=6e7", f"--config={out}")
    assert out.read_text() == "mine"


def test_the_fit_of_a_table_wants_a_base_config_and_keeps_names_of_files_out_of_the_code(folder, tmp_path, capsys):
    fit, out = of_a_table(folder / "fit.json", tmp_path / "fit.json"), tmp_path / "best.py"
    arguments = (fit, "--compute=6e7", f"--config={out}")
    (tmp_path / "run.py").write_text(RUN)
    # Beside the table lies no sweep of its runs.
    assert "--base_config" in refused(capsys, *arguments)
    assert not out.exists()
    predict(capsys, *arguments, f"--base_config={tmp_path / 'run.py'}")
    run = plans.plan(config_file.load(f"{out}:optimum")).points[0]
    best = laws.read_fit(fit).optimal(6e7).iloc[0]
    assert run.counts["params_total"] == int(best["n"]) and run.counts["batch_size"] == 4
    assert 6 * run.counts["params_total"] * run.counts["tokens"] == pytest.approx(6e7, rel=1e-3)
    assert all(line.startswith("#") for line in out.read_text().splitlines() if "import os" in line)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("--n=10", "--d=10"), "--compute"),
        (("--compute=6e7", "--freeze=x.json"), "--freeze"),
        (("--compute=6e7", "--rungs=-1"), "--rungs"),
        (("--compute=1e1",), "1"),  # of which not one step can be made
    ],
)
def test_what_makes_no_config_is_refused_and_nothing_written(folder, tmp_path, capsys, words, named):
    assert named in refused(capsys, folder / "fit.json", *words, f"--config={tmp_path / 'best.py'}")
    assert not list(tmp_path.iterdir())


def test_sizes_without_embeddings_are_met_by_the_nearest_shape(folder, tmp_path, capsys):
    fit, out = of_a_table(folder / "fit.json", tmp_path / "fit.json", n="params_non_embedding"), tmp_path / "best.py"
    words = (fit, "--compute=6e9", f"--config={out}", "--rungs=0", "--base_config=configs/lm/demo.py")
    predict(capsys, *words)
    best = laws.read_fit(fit).optimal(6e9)["n"].iloc[0]
    (run,) = plans.plan(config_file.load(str(out))).points
    base = config_file.load("configs/lm/demo.py").base
    distance = abs(math.log(run.counts["params_non_embedding"] / best))
    for width in range(24, 129, 8):
        config = configs.resolve(plans.configure(base, {"model.width": width, "duration.tokens": 1e6}))
        count = plans.Point({}, {}, config).counts["params_non_embedding"]
        assert abs(math.log(count / best)) >= distance
