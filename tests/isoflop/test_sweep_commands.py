"""The commands around runs and sweeps: what they print, what they return, what they refuse."""

import json
import re
import subprocess
import sys
from pathlib import Path

import compiler_flags
import pytest

from isoflop.cli import main
from isoflop.commands._sweep_flags import states
from training.errors import BadInput

sys.path.insert(0, str(Path(__file__).parents[1] / "sweeps"))

import fake as family

from sweeps import cost_estimate

RUN = """
from ml_collections import ConfigDict
def get_config(arg=""):
    run = {"task": "fake", "batch_size": 8, "log": {"every": 5}, "model": {"width": 4}, "duration": {"steps": 40}}
    return ConfigDict(run)
"""
SWEEP = """
from ml_collections import ConfigDict
from sweeps.design import axis, branch, isoflop, ladder, product
def get_config(arg=""):
    design = product(isoflop((2e4, 4e4), (4, 8, 16)), axis("seed", (0, 1)))
    base = {"task": "fake", "batch_size": 8, "log": {"every": 5}}
    return ConfigDict({"name": "study", "base": base, "design": design, "min_steps": 30})
"""

MISSING = """
from ml_collections import ConfigDict
from sweeps.design import axis
def get_config(arg=""):
    run = {"task": "fake", "model": {"width": 4}, "duration": {"steps": 40}, "batch_size": 8, "data": {"missing": True}}
    return ConfigDict(run if arg else {"base": run, "design": axis("seed", (0, 1))})
"""


@pytest.fixture(autouse=True)
def files(monkeypatch, tmp_path):
    """The family and two config files in an empty folder."""
    family.install()
    monkeypatch.setattr(cost_estimate, "COMMAND", family.COST_ESTIMATE)
    monkeypatch.setenv("XLA_FLAGS", compiler_flags.ONE_DEVICE)
    monkeypatch.setenv("ISOFLOP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    monkeypatch.chdir(tmp_path)
    Path("run.py").write_text(RUN)
    Path("sweep.py").write_text(SWEEP)
    Path("missing.py").write_text(MISSING)


def isoflop(*argv):
    """A command in a process of its own, as users start it."""
    return subprocess.run([*family.CLI, *argv], capture_output=True, text=True, timeout=120)


def said(capsys, *argv):
    """Exit code and JSON of a command."""
    code = main([*argv, "--json"])
    return code, json.loads(capsys.readouterr().out)


def refused(capsys, *argv):
    """The one line of a command that exits with 2."""
    assert main(list(argv)) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("isoflop: ")
    return lines[0]


def test_states_are_chosen_by_their_names():
    assert states("failed, missing") == ("failed", "missing")
    assert states("") == ("missing", "interrupted", "failed")
    with pytest.raises(BadInput, match="--state: no state 'faild'; did you mean 'failed'"):
        states("faild")


def test_plan_without_memory_is_arithmetic_alone(capsys):
    code, plan = said(capsys, "plan", "--config=sweep.py", "--memory=false", "--flops_per_second=1000", "--workers=2")
    assert code == 0 and len(plan["points"]) == 10 and plan["shapes"] == 3
    assert [point["refused"] for point in plan["refused"]] == ["26 steps are fewer than min_steps = 30"] * 2
    assert plan["hours"] == pytest.approx(plan["flops_exact"] / 1000 / 2 / 3600)
    first = plan["points"][0]
    assert first["flops_exact"] == first["flops_6nd"] == 6 * 4 * first["tokens"] and first["budget"] == 2e4
    assert first["memory_bytes"] is None
    assert main(["plan", "--config=sweep.py", "--memory=false"]) == 0
    table = capsys.readouterr().out
    assert "10 runs, 3 shapes" in table and "refused: duration.flops=20000, model.size=16, seed=0" in table


def test_plan_prints_the_recipe_with_its_source_reference_and_multipliers(capsys):
    model = "'model': {'width': 128, 'depth': 4, 'heads': 8}, 'data': {'corpus': 'markov', 'vocab_size': 64}"
    run = f"{{{model}, 'duration': {{'tokens': 1e6}}, 'recipe': {{'name': 'completep'}}}}"
    Path("recipe.py").write_text(
        f"from ml_collections import ConfigDict\ndef get_config():\n    return ConfigDict({run})\n"
    )
    argv = ("plan", "--config=recipe.py", "--memory=false", "--flops_per_second=1e9")
    (recipe,) = said(capsys, *argv)[1]["recipes"]
    assert recipe["name"] == "completep" and "2505.01618" in recipe["source"]
    assert recipe["reference"]["width"] == 64 and recipe["reference"]["depth"] == 2
    assert recipe["forward"] == {"logit_multiplier": 0.5, "residual_multiplier": 0.5}
    assert recipe["multipliers"]["hidden"] == {"init": 1, "lr": 0.5, "eps": 0.25, "decay": 2}
    assert {name: recipe[name] for name in ("b1", "b2", "eps")} == {"b1": 0.9, "b2": 0.95, "eps": 1e-8}
    assert recipe["learning_rate"] > 0 and recipe["warmup_steps"] > 0 and recipe["batch_size"] > 0
    assert main(list(argv)) == 0
    table = capsys.readouterr().out
    assert "recipe completep: " in table and "residual multiplier 0.5" in table and "hidden: lr x 0.5" in table


def test_plan_tells_the_spread_of_tokens_per_parameter_and_warns_of_one_ratio(capsys):
    code, plan = said(capsys, "plan", "--config=sweep.py", "--memory=false")
    ratios = plan["data_per_param"]
    assert code == 0 and ratios == [point["tokens"] / point["params_total"] for point in plan["points"]]
    assert max(ratios) > 2 * min(ratios) and not plan["one_ratio"]
    assert main(["plan", "--config=sweep.py", "--memory=false"]) == 0
    table = capsys.readouterr().out
    assert f"tokens per parameter: {min(ratios):.3g} to {max(ratios):.3g}, median" in table and "warning" not in table
    Path("ladder.py").write_text(re.sub(r"design = .*", "design = ladder((40, 80, 160), 20)", SWEEP))
    assert main(["plan", "--config=ladder.py", "--memory=false"]) == 0
    assert "warning: one ratio of tokens to parameters: size and data grow together" in capsys.readouterr().out


def test_plan_prices_a_trunk_once(capsys):
    text = "design = branch(axis('model.size', (4, 8)), (40, 80), duration='duration.steps')"
    Path("branches.py").write_text(re.sub(r"design = .*", text, SWEEP))
    code, plan = said(capsys, "plan", "--config=branches.py", "--memory=false")
    trunk, branch = plan["points"][:2]
    assert code == 0 and (branch["trunk"], branch["fork_step"]) == (trunk["run_id"], 32)
    assert branch["own_flops"] == pytest.approx(0.1 * trunk["flops_exact"])
    assert plan["flops_exact"] == pytest.approx(1.1 * sum(point["flops_exact"] for point in plan["points"][::2]))
    assert main(["plan", "--config=branches.py", "--memory=false"]) == 0
    assert "2 runs are forked from their trunks" in capsys.readouterr().out


def test_plan_measures_memory_and_speed_and_says_where(capsys):
    code, plan = said(capsys, "plan", "--config=run.py")
    (point,) = plan["points"]
    assert code == 0 and point["memory_bytes"] > 0 and point["minutes"] > 0
    assert plan["hours_source"].startswith("a few steps of 1 shape, timed on")
    assert not Path("runs").exists()


def test_plan_says_what_does_not_fit_before_it_is_run(capsys):
    # The process that measures: no device has more than a byte.
    tiny = f"import sys; sys.path.insert(0, {str(Path(family.__file__).parent)!r}); import fake; fake.install()\n"
    tiny += "from training import memory; memory.of_a_device = lambda: 1.0\n"
    tiny += "from sweeps import cost_estimate; sys.exit(cost_estimate.main())"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(cost_estimate, "COMMAND", (sys.executable, "-c", tiny))
        code, plan = said(capsys, "plan", "--config=run.py", "--pack")
    assert code == 0 and plan["hours"] is None and plan["points"][0]["memory_bytes"] > 1
    (note,) = plan["notes"]
    assert note.endswith("more than this machine has: its runs would be refused here")


@pytest.mark.slow
def test_plan_goes_without_prices_where_the_data_is_missing(capsys):
    note = "memory and time are not measured: data: there is no such corpus"
    for argv, hours in ((), False), (("--flops_per_second=1000",), True):
        code, plan = said(capsys, "plan", "--config=missing.py", *argv)
        assert code == 0 and len(plan["points"]) == 2 and plan["notes"] == [note]
        assert (plan["hours"] is not None) == hours
        assert all(point["flops_exact"] and point["memory_bytes"] is None for point in plan["points"])
    assert main(["plan", "--config=missing.py"]) == 0
    assert note in capsys.readouterr().out
    assert "there is no such corpus" in refused(capsys, "plan", "--config=missing.py", "--memory")  # what was asked for


def test_plan_keeps_to_the_conditions(capsys):
    _, plan = said(capsys, "plan", "--config=sweep.py", "--memory=false", "--where=budget<=2e4", "--where", "seed==0")
    assert [(point["budget"], point["seed"]) for point in plan["points"]] == [(2e4, 0), (2e4, 0)]


def test_points_of_a_file_join_those_of_the_config(capsys):
    Path("more.csv").write_text("label.budget,duration.flops,model.size\n8e4,8e4,32\n2e4,2e4,4\n")
    _, plan = said(capsys, "plan", "--config=sweep.py", "--memory=false", "--points=more.csv")
    assert len(plan["points"]) == 11 and plan["points"][-1]["budget"] == 8e4 and plan["duplicates"] == 1
    _, plan = said(capsys, "plan", "--config=sweep.py", "--memory=false", "--points=more.csv", "--where=budget==8e4")
    assert len(plan["points"]) == 1
    Path("more.csv").write_text("duration.flops\n8e4,32\n")
    assert "--points: more.csv: not a table of points" in refused(
        capsys, "plan", "--config=sweep.py", "--points=more.csv"
    )
    assert "--points: the config is one run" in refused(capsys, "plan", "--config=run.py", "--points=more.csv")
    assert "none.csv" in refused(capsys, "sweep", "--config=sweep.py", "--points=none.csv", "--workdir=out")
    assert not Path("out").exists()


def test_what_is_no_study(capsys):
    one = SWEEP.replace("(2e4, 4e4)", "(2e4,)")
    Path("one.py").write_text(one)
    forked = "design = branch(axis('model.size', (4, 8)), (2e4, 4e4), duration='duration.flops')"
    Path("branches.py").write_text(re.sub(r"design = .*", forked, SWEEP))
    for words, message in {
        ("--config=run.py", "--workdir=out"): "this is one run",
        ("--config=sweep.py",): "--workdir=DIR is missing",
        ("--config=one.py", "--workdir=out"): "a study needs a design of two budgets",
        ("--config=sweep.py", "--workdir=out", "more"): "no operands",
        ("--config=branches.py", "--workdir=out"): "runs of 40000 FLOPs are held out, and they are trunks of others",
    }.items():
        assert message in refused(capsys, "study", *words)
    assert not Path("out").exists()


def test_a_sweep_from_plan_to_tables(capsys):
    arguments = ("sweep", "--config=sweep.py", "--workdir=out", "--workers=2")
    first = isoflop(*arguments, "--where=budget<=2e4", "--config.base.optimizer.learning_rate=0.2")
    assert first.returncode == 0, first.stderr
    assert "sweep study: 4 completed" in first.stdout and "4/4" in first.stderr
    code, status = said(capsys, "status", "out")
    assert code == 0 and status["states"] == {"completed": 4} and status["flops_done"] == status["flops_total"]
    code, tables = said(capsys, "collect", "out")
    assert code == 0 and tables["statuses"] == {"completed": 4} and Path(tables["runs"]).is_file()
    import pyarrow.parquet as pq

    assert pq.read_table(tables["runs"]).column("peak_lr").to_pylist() == [0.2] * 4
    code, plan = said(capsys, "plan", "--config=sweep.py", "--memory=false", "--workdir=out")
    assert plan["hours"] > 0 and plan["hours_source"] == "4 completed runs in out"
    changed = isoflop(
        *arguments[:3], "--workers=1", "--where=budget<=2e4 and seed==0", "--config.base.optimizer.learning_rate=0.3"
    )
    assert changed.returncode == 0 and "which differ in optimizer.learning_rate (0.2, 0.3)" in changed.stdout


def test_a_failed_run_makes_the_sweep_exit_with_1_and_is_named():
    done = isoflop(
        "sweep",
        "--config=sweep.py",
        "--workdir=out",
        "--workers=1",
        "--where=seed==1",
        "--where=budget<=2e4",
        "--config.base.data.crash=boom",
    )
    assert done.returncode == 1
    assert done.stdout.count("RuntimeError: boom") == 4  # in the table and below it
    assert "2 failed" in done.stdout


def test_train_runs_once_and_mirrors(capsys):
    code, result = said(capsys, "train", "--config=run.py", "--workdir=one", "--tensorboard", "--profile")
    assert code == 0 and result["status"] == "completed" and result["steps"] == 40
    assert list(Path("one/tensorboard").glob("events*")) and list(Path("one/profile").rglob("*.xplane.pb"))
    stamp = Path("one/result.json").stat().st_mtime_ns
    assert said(capsys, "train", "--config=run.py", "--workdir=one") == (0, result)
    assert Path("one/result.json").stat().st_mtime_ns == stamp


def test_train_without_wandb_says_how_to_get_it(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert "pip install 'isoflop[wandb]'" in refused(capsys, "train", "--config=run.py", "--workdir=one", "--wandb")
    assert not Path("one").exists()


def test_a_run_that_diverges_exits_with_1(capsys):
    assert main(["train", "--config=run.py", "--workdir=one", "--config.data.nan_at=5"]) == 1
    assert "diverged" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("sweep", "--config=run.py", "--workdir=x"), "use isoflop train"),
        (("train", "--config=sweep.py", "--workdir=x"), "use isoflop sweep"),
        (("sweep", "--config=sweep.py"), "--workdir=DIR is missing"),
        (("train", "--config=run.py"), "--workdir=DIR is missing"),
        (("sweep", "--config=sweep.py", "--workdir=x", "--state=faled"), "did you mean 'failed'"),
        (("sweep", "--config=sweep.py", "--workdir=x", "--workers=0"), "--workers: must be at least 1"),
        (("sweep", "--config=sweep.py", "--workdir=x", "--where=budgt<=1"), "no point has 'budgt'"),
        (("sweep", "--config=missing.py", "--workdir=x"), "there is no such corpus"),
        (("train", "--config=missing.py:run", "--workdir=x"), "there is no such corpus"),
        (("plan", "--config=sweep.py", "--where=budget"), "not true or false of each row"),
        (("plan", "--config=sweep.py", "--where=budgt<=1"), "did you mean 'budget'"),
        (("plan", "--config=sweep.py", "--where=budget.max() > 1"), "'budget.max()' is not of its language"),
        (("sweep", "--config=sweep.py", "--workdir=x", "--where=budget.__class__"), "is not of its language"),
        (("plan", "--config=sweep.py", "--flops_per_second=0"), "must be positive"),
        (("plan", "--config=sweep.py", "--workdir=nowhere"), "no sweep in nowhere"),
        (("plan", "--config=nowhere.py"), "no config file nowhere.py"),
        (("plan",), "--config=FILE[:arg] is missing"),
        (("status", "nowhere"), "no sweep in nowhere"),
        (("status",), "one sweep directory"),
        (("collect", "nowhere"), "no sweep in nowhere"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(capsys, argv, message):
    assert message in refused(capsys, *argv)
    assert {path.name for path in Path.cwd().iterdir()} <= {"run.py", "sweep.py", "missing.py", "__pycache__"}


def test_a_mirrored_run_that_is_refused_leaves_nothing(capsys):
    argv = ("train", "--config=run.py", "--config.mesh.data=16", "--workdir=one", "--tensorboard")
    assert "wants 16 devices" in refused(capsys, *argv)
    assert not Path("one").exists()


def test_a_workdir_of_another_run_is_refused(capsys):
    assert main(["train", "--config=run.py", "--workdir=one"]) == 0
    capsys.readouterr()
    assert "holds a run, not a sweep" in refused(capsys, "sweep", "--config=sweep.py", "--workdir=one")
    Path("run.py").write_text(RUN.replace('"width": 4', '"width": 5'))
    message = refused(capsys, "train", "--config=run.py", "--workdir=one")
    assert "model.width (4 -> 5)" in message and "--allow_change" in message


def test_a_design_that_names_an_unknown_key_is_refused(capsys):
    Path("sweep.py").write_text(SWEEP.replace('axis("seed"', 'axis("sed"'))
    assert "unknown key 'sed'; did you mean 'seed'" in refused(capsys, "plan", "--config=sweep.py")


@pytest.mark.parametrize("command", ["plan", "train", "sweep", "status", "collect"])
def test_help_shows_an_example(capsys, command):
    assert main([command, "--help"]) == 0
    assert f"isoflop {command} " in capsys.readouterr().out
