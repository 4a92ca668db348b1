"""Cooldowns forked from a trunk: designs, plans, workers, and results that are those of single runs, bit for bit."""

import json
import os
import signal
from pathlib import Path

import jax
import numpy as np
import pandas as pd
import pytest

from benchmarks import branches as study
from isoflop.report import provenance
from sweeps import branches as forks, design as d, lease, plan as plans, plan_storage, status, sweep_dir, worker_process
from sweeps.execute import execute
from sweeps.launch import Options
from sweeps.worker_job import WorkerJob
from training import checkpoint, loop
from training.errors import BadInput

AT = (20, 40, 100)


def of_steps(trunk=({"model.size": 8.0},), at=AT, **options):
    return d.branch(trunk, at, duration="duration.steps", **options)


def served(sweep, run_ids=None, session="session", **options):
    """Be a worker of a sweep: the signal that stopped it, and its events but for progress."""
    events = []
    stopped = worker_process.serve(
        WorkerJob(str(sweep.path), tuple(run_ids or sweep.entries), session, **options),
        lambda event, **values: events.append((event, values.get("run_id"))),
    )
    return stopped, [event for event in events if event[0] != "progress"]


def states(sweep):
    return [sweep_dir.state(sweep, run_id) for run_id in sweep.entries]


def single(point, path):
    """The record of a point as a run of its own, from its first step on."""
    return loop.run(point.config, path)


def everything(run):
    """The arrays of a run's last checkpoint: parameters and moments."""
    parts = [checkpoint.load_part(run, name) for name in ("params", "moments")]
    return [np.asarray(leaf) for leaf in jax.tree.leaves(parts)]


def assert_same_run(branch, single):
    """What two runs came to, bit for bit."""
    one, other = (json.loads((run / "result.json").read_text()) for run in (branch, single))
    for name in ("run_id", "loss", "loss_sem", "tokens", "flops_exact", "steps", "peak_lr", "warmup_steps"):
        assert one[name] == other[name], name
    pairs = list(zip(everything(branch), everything(single), strict=True))
    assert len(pairs) > 2 and all(np.array_equal(a, b) for a, b in pairs)


def test_a_design_of_branches_is_pure_data():
    design = d.product(d.branch(d.axis("model.size", (4.0,)), (2e4, 1e4), 0.25), d.axis("seed", (0, 1)))
    common = {"model.size": 4.0, "schedule.name": "wsd", "schedule.decay_fraction": 0.25}
    longest, shorter = {"duration.tokens": 2e4}, {"duration.tokens": 1e4, "trunk": 2e4}
    assert design == tuple(common | horizon | {"seed": seed} for horizon in (longest, shorter) for seed in (0, 1))
    assert d.trunk_of(design[3]) == d.split(design[1])[0] and d.trunk_of(design[0]) is None
    budgets = d.branch(({},), (1e9, 2e9), duration="duration.flops")
    assert [point["label.budget"] for point in budgets] == [2e9, 1e9]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"at": ()}, "want positive horizons"),
        ({"at": (0, 10)}, "want positive horizons"),
        ({"cooldown": 0.0}, r"cooldown must be in \(0, 1\), got 0"),
        ({"cooldown": 1.0}, r"cooldown must be in \(0, 1\), got 1"),
        ({"trunk": ({"duration.flops": 1e9},)}, "the trunk has a duration.flops"),
    ],
)
def test_a_design_of_branches_that_is_none(arguments, message):
    with pytest.raises(ValueError, match=message):
        of_steps(**arguments)


def test_a_trunk_comes_before_its_branches_and_costs_once(make):
    plan = plans.plan(make(of_steps(d.axis("model.size", (4.0, 8.0)))[::-1]))
    assert [point.config.derived.steps for point in plan.points] == [100, 20, 40] * 2
    for trunk, *branches in (plan.points[:3], plan.points[3:]):
        assert trunk.trunk is None and all(point.trunk is trunk for point in branches)
        assert [point.fork_step for point in branches] == [16, 32]
        assert [point.own_flops / trunk.flops for point in branches] == pytest.approx([0.04, 0.08])
        assert {point.config.derived.warmup_steps for point in branches} == {trunk.config.derived.warmup_steps} == {10}
    assert plan.flops == pytest.approx(1.12 * sum(point.flops for point in plan.points[::3]))
    assert not plan.duplicates and not plan.refused


def test_a_trunk_is_planned_where_only_its_branches_are_chosen(make):
    sweep = make(d.label(of_steps(), of="design"))
    plan = plans.plan(sweep, ["`duration.steps` == 20"])
    assert [point.config.derived.steps for point in plan.points] == [100, 20]
    assert plan.points[0].labels == {"of": "design"}
    alone = plans.plan(make(d.filter_(of_steps(), ("duration.steps", "<", 100))))
    assert [point.config.derived.steps for point in alone.points] == [100, 40, 20]


@pytest.mark.parametrize(
    ("design", "base", "message"),
    [
        ([{"trunk": 50, "duration.steps": 60}], {}, "trunk of duration.steps = 50 is no longer than its branch of 60"),
        ([{"trunk": 50}], {}, "a point with the key 'trunk' has one duration, not 0"),
        ([{"trunk": 50, "duration.steps": 20}], {}, "schedule.name: a branch needs wsd, got cosine"),
        (of_steps(at=(1, 20)), {}, "a warmup of 2 steps does not fit a duration of 1 steps"),
        (of_steps(), {"steps_per_call": 32}, "step 0 does not lie inside a run of 20 steps"),
        (of_steps(at=(20, 100)), {"optimizer": {"name": "ademamix"}}, "optimizer.name of a step follows from the dur"),
        (of_steps(), {"early_stopping": {"patience": 1}, "log": {"evaluate_every": 5}}, "counts evaluations from step"),
    ],
)
def test_branches_that_cannot_be_are_refused_in_one_line(make, design, base, message):
    with pytest.raises(BadInput, match=message) as error:
        plans.plan(make(tuple(design), base, strict=True))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("options", [{}, {"run_batch": 4}], ids=["alone", "packed"])
def test_branches_are_single_runs_bit_for_bit(make, tmp_path, options):
    base = {"steps_per_call": 4, "optimizer": {"ema": 0.9}, "log": {"every": 1}}
    plan = plans.plan(make(of_steps(), base))
    sweep = plan_storage.add_points(tmp_path / "study", plan)
    stopped, events = served(sweep, **options)
    trunk, *branches = [point.run_id for point in plan.points]
    assert stopped is None and states(sweep) == ["completed"] * 3
    assert [run_id for event, run_id in events if event == "end"][0] == trunk
    for point in plan.points:
        single(point, tmp_path / point.run_id)
        assert_same_run(sweep.run(point.run_id), tmp_path / point.run_id)
    records = [sweep_dir.result(sweep.run(run_id)) for run_id in branches]
    assert [(r["trunk"], r["fork_step"], r["continued_from"]) for r in records] == [
        (trunk, 32, None),
        (trunk, 16, None),
    ]
    assert {r["pack"] for r in records} == {2 if options else 1}
    assert sweep_dir.result(sweep.run(trunk))["trunk"] is None
    lines = [json.loads(line) for line in (sweep.run(branches[0]) / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(33, 41))  # what it shares with its trunk it does not repeat
    assert checkpoint.saved_steps(sweep.run(trunk)) == [100]  # the forks are kept no longer than they are needed


@pytest.mark.slow
def test_several_workers_wait_for_trunks(make, tmp_path, fake):
    plan = plans.plan(make(of_steps(d.axis("model.size", (4.0, 8.0)))))
    outcome = execute(plan, tmp_path / "study", options=Options(workers=2, command=fake.WORKER))
    assert outcome["states"] == {"completed": 6} and outcome["ran"] == 6
    for point in plan.points:
        if point.trunk is not None:
            single(point, tmp_path / point.run_id)
            assert_same_run(tmp_path / "study" / "runs" / point.run_id, tmp_path / point.run_id)


def test_branches_of_a_trunk_that_failed_are_named_and_made_once_it_is_mended(make, tmp_path, monkeypatch):
    plan = plans.plan(make(of_steps()))
    sweep = plan_storage.add_points(tmp_path / "study", plan)
    trunk, *branches = sweep.entries
    monkeypatch.setattr(checkpoint.Checkpoints, "save", lambda *arguments, **options: 1 / 0)
    assert served(sweep)[0] is None
    assert states(sweep) == ["failed"] * 3
    for run_id in branches:
        message = sweep_dir.failure(sweep.run(run_id))["message"]
        assert message == f"not run: its trunk {trunk} failed (ZeroDivisionError: division by zero)"
    monkeypatch.undo()
    assert served(sweep, session="another")[0] is None
    assert states(sweep) == ["completed"] * 3


def test_a_trunk_that_diverges_takes_only_the_branches_beyond_with_it(make, tmp_path):
    sweep = plan_storage.add_points(tmp_path / "study", plans.plan(make(of_steps(), {"data": {"nan_at": 25}})))
    assert served(sweep)[0] is None
    assert states(sweep) == ["diverged", "failed", "completed"]
    message = sweep_dir.failure(sweep.run(list(sweep.entries)[1]))["message"]
    assert message.endswith("diverged at step 25, before the fork at step 32")


def test_a_worker_that_is_stopped_in_a_trunk_and_in_a_branch_goes_on(make, tmp_path, monkeypatch, fake):
    plan = plans.plan(make(of_steps()))
    sweep = plan_storage.add_points(tmp_path / "study", plan)
    batch, stops = fake.Task.batch, [(100, 24), (100, 60), (40, 36)]

    def signalled(task, k, rows):
        if (task._config.derived.steps, k) in stops:
            stops.remove((task._config.derived.steps, k))
            os.kill(os.getpid(), signal.SIGTERM)
        return batch(task, k, rows)

    monkeypatch.setattr(fake.Task, "batch", signalled)
    assert [served(sweep)[0] for _ in range(4)] == [signal.SIGTERM] * 3 + [None]
    for point in plan.points:
        single(point, tmp_path / point.run_id)
        assert_same_run(sweep.run(point.run_id), tmp_path / point.run_id)
    cut = sweep_dir.result(sweep.run(plan.points[1].run_id))
    assert cut["continued_from"] > cut["fork_step"] == 32 and cut["trunk"] == plan.points[0].run_id


@pytest.mark.slow
def test_a_horizon_that_is_added_when_the_trunk_has_ended_is_trained_whole(make, tmp_path):
    sweep = plan_storage.add_points(tmp_path / "study", plans.plan(make(of_steps())))
    assert served(sweep)[0] is None
    plan = plans.plan(make(of_steps(at=(60, *AT))))
    sweep = plan_storage.add_points(tmp_path / "study", plan)
    assert served(sweep, session="another")[0] is None
    (late,) = [point for point in plan.points if point.config.derived.steps == 60]
    single(late, tmp_path / "single")
    assert_same_run(sweep.run(late.run_id), tmp_path / "single")
    assert sweep_dir.result(sweep.run(late.run_id))["fork_step"] is None


def test_a_branch_that_another_worker_s_trunk_holds_up_is_not_begun(make, tmp_path):
    sweep = plan_storage.add_points(tmp_path / "study", plans.plan(make(of_steps())))
    trunk, *branches = sweep.entries
    with lease.claim(sweep.run(trunk)) as held:
        assert held
        looks = [forks.look(sweep, sweep.entries[run_id], "session").readiness for run_id in branches]
    assert looks == [forks.Readiness.WAITING] * 2


def test_the_study_that_is_checked_in_is_what_its_runs_say():
    folder = Path(__file__).parents[2] / "benchmarks" / "results"
    table, stated = pd.read_csv(folder / "branches.csv"), json.loads((folder / "branches.json").read_text())
    facts = study.compared(table)
    assert {name: stated[name] for name in facts} == json.loads(json.dumps(facts))
    assert facts["flops_of_one_trunk_a_size_over_single"] <= 0.55
    assert facts["differences"]["rms"] <= facts["differences"]["rms_expected_of_noise"]
    widths = [stated["fits"][name]["widths"]["loss_opt"] for name in ("branches", "single")]
    assert widths[0] <= widths[1] and facts["flops"]["branches"] == pytest.approx(facts["flops"]["single"], rel=0.03)


def test_errors_that_no_two_runs_share_are_errors_of_their_own():
    constants = {"A": 28.0, "B": 60.0, "E": 1.0, "alpha": 0.42, "beta": 0.34}
    sizes, tokens = (grid.ravel() for grid in np.meshgrid([1e4, 2e4, 4e4], [1e5, 3e5, 9e5]))
    alone = dict(trunk=np.arange(9), target=1e12)
    parts = study.standard_errors(constants, sizes, tokens, shared=0.3, own=0.4, **alone)
    whole = study.standard_errors(constants, sizes, tokens, shared=0.0, own=0.5, **alone)
    assert parts == pytest.approx(whole)
    together = study.standard_errors(constants, sizes, tokens, shared=0.5, own=0.0, trunk=np.zeros(9), target=1e12)
    assert together["alpha"] < 0.1 * whole["alpha"]  # it moves all losses alike


def test_steps_of_a_trunk_count_once_in_status_and_report(make, tmp_path):
    sweep = plan_storage.add_points(tmp_path / "study", plans.plan(make(of_steps())))
    table = status.rows(sweep)
    assert [row["flops"] / table[0]["flops"] for row in table] == pytest.approx([1.0, 0.08, 0.04])
    assert [row.get("flops_exact", row["flops"]) / table[0]["flops"] for row in table] == pytest.approx([1.0, 0.4, 0.2])
    assert status.summarize(sweep, table).flops_total == pytest.approx(1.12 * table[0]["flops"])
    records = pd.DataFrame({"tokens": [100, 20], "steps": [100, 20], "fork_step": [None, 16]})
    assert provenance._made(records, "tokens") == pytest.approx(104)
