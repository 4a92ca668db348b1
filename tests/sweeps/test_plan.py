"""Plans: completion, resolution, duplicates, refusals, groups that share a compile, and what imports pull in."""

import subprocess
import sys

import pytest
from ml_collections import ConfigDict

from sweeps import design as d, plan as plans
from training.errors import BadInput


def test_points_are_resolved_in_the_order_of_the_design(make):
    plan = plans.plan(make(d.product(d.isoflop((2e4, 4e4), (4, 8)), d.axis("seed", (0, 1)))))
    assert [point.config.model.width for point in plan.points] == [4, 4, 8, 8] * 2
    assert [point.labels["budget"] for point in plan.points] == [2e4] * 4 + [4e4] * 4
    for point in plan.points:
        assert point.flops == pytest.approx(point.labels["budget"], rel=0.02)
        assert point.flops == point.config.derived.steps * 8 * 6 * point.config.model.width
    assert plan.flops == sum(point.flops for point in plan.points)
    assert len({point.run_id for point in plan.points}) == 8


def test_a_base_key_reaches_every_point(make):
    sweep = make(d.axis("seed", (0, 1)))
    with sweep.unlocked():
        sweep.base.data.pause = 0.5
    assert [point.config.data.pause for point in plans.plan(sweep).points] == [0.5, 0.5]


def test_duplicates_are_dropped_by_identity_not_by_spelling(make):
    design = ({"model.size": 8.0}, {"model.size": 8.4}, {"model.width": 8}, {"model.size": 9.0})
    plan = plans.plan(make(design))
    # 8, 8.4 and a width of 8 make one shape.
    assert len(plan.points) == 2 and len(plan.duplicates) == 2


def test_points_without_enough_steps_or_with_too_many_epochs_are_refused_by_name(make):
    design = d.axis("duration.steps", (10, 100, 2000))
    plan = plans.plan(make(design, min_steps=20, max_epochs=1.0))
    assert [point.overrides["duration.steps"] for point in plan.points] == [100]
    assert plan.points[0].epochs == pytest.approx(100 * 8 / 4096)
    assert [point.refused for point in plan.refused] == [
        "10 steps are fewer than min_steps = 20",
        "3.91 epochs are more than max_epochs = 1",
    ]


def test_a_point_that_cannot_be_resolved_is_refused_with_the_family_s_reason(make):
    plan = plans.plan(make(d.axis("model.size", (1.0, 8.0))))
    assert len(plan.points) == 1
    assert "below the smallest shape" in plan.refused[0].refused


@pytest.mark.parametrize(("own", "design"), [({}, (10,)), ({"strict": True}, (10, 100))])
def test_a_sweep_is_an_error_when_nothing_is_left_or_it_is_strict(make, own, design):
    with pytest.raises(BadInput, match=r"1 of \d points are refused: 10 steps are fewer than min_steps = 20"):
        plans.plan(make(d.axis("duration.steps", design), min_steps=20, **own))


def test_unknown_keys_are_errors_with_the_nearest_name(make):
    with pytest.raises(BadInput, match=r"unknown key 'model.siz'; did you mean 'size'"):
        plans.plan(make(d.axis("model.siz", (1.0,))))
    with pytest.raises(BadInput, match="unknown key 'min_step'; did you mean 'min_steps'"):
        make(min_step=3)
    with pytest.raises(BadInput, match=r"batch_size wants int, got 'many'"):
        plans.plan(make(d.axis("batch_size", ("many",))))
    with pytest.raises(BadInput, match="base: unknown key 'mdoel'; did you mean 'model'"):
        make(base={"mdoel": {}})


def test_names_become_paths_and_are_checked():
    for name in ("../up", "a b", ".hidden"):
        with pytest.raises(BadInput, match="name"):
            plans.complete(ConfigDict({"name": name, "base": {"task": "fake"}, "design": ()}))
    assert plans.complete(ConfigDict({"base": {"task": "fake"}, "design": ()}), "configs/demo.py").name == "demo"


def test_an_empty_design_and_unmet_conditions_are_errors(make):
    with pytest.raises(BadInput, match="no points"):
        plans.plan(make((), base={"duration": {"steps": 30}, "model": {"size": 8.0}}))
    with pytest.raises(BadInput, match="no points that meet seed > 5"):
        plans.plan(make(), ["seed > 5"])
    with pytest.raises(BadInput, match="no point has 'sed'; did you mean 'seed'"):
        plans.plan(make(), ["sed > 5"])
    assert len(plans.plan(make(), ["seed > 0"]).points) == 1


def test_conditions_choose_by_labels_overrides_and_counts(make):
    repeats = d.product(d.isoflop((2e4,), (8,)), d.axis("seed", (1, 2)))
    sweep = make(d.chain(d.isoflop((2e4, 4e4), (4, 8)), repeats))

    def chosen(*where):
        return [(p.labels["budget"], p.config.model.width, p.config.seed) for p in plans.plan(sweep, where).points]

    assert chosen("budget < 4e4 and seed > 0") == [(2e4, 8, 1), (2e4, 8, 2)]
    assert chosen("seed == 0", "`model.size` == 8") == [
        (2e4, 8, 0),
        (4e4, 8, 0),
    ]  # the seed of the base, where none is set
    assert chosen("params_total <= 4") == [(2e4, 4, 0), (4e4, 4, 0)]
    assert chosen("family == 'linear' and flops_exact > 3e4") == [(4e4, 4, 0), (4e4, 8, 0)]
    assert len(chosen("family.str.startswith('lin')")) == 6


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("budget", "not true or false of each row"),
        ("budget <=", "not an expression"),
        ("family == linear", "no point has 'linear'"),
        ("model.size <= 4", "write `model.size` in backticks"),
        ("famly == 'linear'", "did you mean 'family'"),
        ("family > 3", "cannot be applied"),
        ("@abort()", "not an expression"),
        ("__import__('sys').modules.update(executed=1)", "is not of its language"),
        ("budget.__class__", "is not of its language"),
        ("budget.values > 1", "is not of its language"),
        ("family.str.contains('a', regex=True)", "is not of its language"),
        ("budget > 9 ** 9 ** 9", "an exponent is a number of at most 100"),
    ],
)
def test_a_condition_that_is_none_is_refused_in_one_line(make, condition, message):
    with pytest.raises(BadInput, match=message) as refusal:
        plans.plan(make(d.isoflop((2e4,), (4, 8))), [condition])
    assert "executed" not in sys.modules
    assert "\n" not in str(refusal.value) and repr(condition) in str(refusal.value)


def test_points_that_are_not_chosen_are_not_refused(make):
    sweep = make(d.axis("duration.steps", (10, 100)), min_steps=20, strict=True)
    with pytest.raises(BadInput, match="1 of 2 points are refused"):
        plans.plan(sweep)
    assert len(plans.plan(sweep, ["`duration.steps` > 50"]).points) == 1


def test_runs_that_differ_in_inputs_of_the_step_share_a_group(make):
    def groups(key, values):
        return len(plans.plan(make(d.axis(key, values))).compile_keys)

    assert groups("seed", (0, 1, 2)) == 1
    assert groups("optimizer.learning_rate", (0.1, 0.2)) == 1
    assert groups("duration.steps", (30, 60)) == 1
    assert groups("schedule.name", ("cosine", "linear")) == 1
    assert groups("model.size", (4.0, 8.0)) == 2
    assert groups("batch_size", (8, 16)) == 2
    assert groups("optimizer.name", ("adamw", "sgd")) == 2
    assert groups("optimizer.ema", (0.0, 0.9)) == 2  # on or off is structure, its value is not
    assert groups("optimizer.ema", (0.5, 0.9)) == 1


def test_a_run_config_is_a_plan_of_one_point(make):
    plan = plans.plan(make().base)
    assert len(plan.points) == 1 and plan.points[0].overrides == {}


def test_imports_pull_in_no_family_and_designs_no_package_at_all():
    script = """
import sys
import sweeps, sweeps.design
packages = {"training", "lm", "vision", "laws", "isoflop", "jax"}
assert not packages & {name.split(".")[0] for name in sys.modules}, packages & set(sys.modules)
import sweeps.plan, sweeps.plan_storage, sweeps.execute, sweeps.worker, sweeps.cost_estimate, sweeps.collect
found = {name.split(".")[0] for name in sys.modules} & {"lm", "vision", "laws", "isoflop"}
assert not found, found
"""
    subprocess.run([sys.executable, "-c", script], check=True)
