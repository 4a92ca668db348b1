"""The learning-rate rule against the sweep it was measured by."""

import csv
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from lm import models, recipes
from lm.recipes import Target
from training.errors import BadInput

MEASURED = Path(__file__).parents[2] / "benchmarks" / "results" / "demo_lr.csv"


def curves():
    """(model, final fraction, N, D, tokens a step) -> rate, loss and its standard error of each run."""
    groups = defaultdict(list)
    for row in csv.DictReader(MEASURED.open()):
        counts = (int(row[name]) for name in ("params_total", "tokens", "batch_tokens"))
        groups[row["base"], float(row["final_fraction"]), *counts].append(
            (float(row["peak_lr"]), float(row["loss"]), float(row["loss_sem"]))
        )
    return groups


def test_the_sweep_covers_sizes_budgets_and_decays():
    assert len(curves()) == 18 and all(len(runs) == 5 for runs in curves().values())


@pytest.mark.parametrize("key", sorted(curves()))
def test_half_and_twice_the_rate_are_no_better_by_a_standard_error(key):
    *_, n, d, batch_tokens = key
    rates, losses, errors = map(np.array, zip(*sorted(curves()[key]), strict=True))
    rule = recipes.apply("default", Target(n, d, 128, batch_tokens // 128))["learning_rate"]
    assert rates[0] < rule < rates[-1]
    at = lambda rate: np.interp(np.log(rate), np.log(rates), losses)
    for other in (rule / 2, 2 * rule):
        if rates[0] <= other <= rates[-1]:
            assert at(rule) - at(other) < errors.min()


def families():
    """(model, active N, D, tokens a step) -> rate and loss of each run of another family than the decoder."""
    groups = defaultdict(list)
    for row in csv.DictReader(MEASURED.with_name("families_lr.csv").open()):
        key = row["model"], *(int(row[name]) for name in ("params_active", "tokens", "batch_tokens"))
        groups[key].append((float(row["peak_lr"]), float(row["loss"])))
    return groups


def excess(key, factor):
    """What that multiple of the rule's rate costs over the best of the rates, as a log ratio of losses."""
    _, n, d, batch_tokens = key
    rates, losses = map(np.array, zip(*sorted(families()[key]), strict=True))
    rate = recipes.apply("default", Target(n, d, 128, batch_tokens // 128, factor))["learning_rate"]
    return np.log(np.interp(np.log(rate), np.log(rates), losses) / losses.min())


@pytest.mark.parametrize("key", sorted(families()), ids=str)
def test_the_rate_of_a_family_loses_little_against_the_best(key):
    assert excess(key, models.KINDS[key[0]].lr_multiplier) < 0.022


@pytest.mark.parametrize("name", sorted(models.RATES))
def test_a_rate_of_its_own_serves_a_family_better_on_average(name):
    keys = [key for key in families() if key[0] == name]
    assert np.mean([excess(key, 1) - excess(key, models.RATES[name]) for key in keys]) > 0.005


def test_batches_leave_enough_steps_and_grow_with_the_data():
    for d in (2e5, 1e6, 5e6, 1e8, 2e10):
        rule = recipes.apply("default", Target(1e5, d, 128))
        assert d / (rule["batch_size"] * 128) >= 400
        assert rule["batch_size"] & (rule["batch_size"] - 1) == 0
    sizes = [recipes.apply("default", Target(1e5, d, 128))["batch_size"] for d in (1e5, 1e6, 1e7, 1e9, 1e11)]
    assert sizes == sorted(sizes) and sizes[-1] > 1000


def test_a_given_batch_moves_rate_and_warmup():
    small, large = (recipes.apply("default", Target(1e5, 1e7, 128, b)) for b in (4, 64))
    assert large["learning_rate"] == pytest.approx(2 * small["learning_rate"])
    assert small["warmup_steps"] == pytest.approx(16 * large["warmup_steps"], rel=0.01)


def test_an_unknown_recipe_is_named():
    with pytest.raises(BadInput, match="recipe.name: no 'defalt'; did you mean 'default'"):
        recipes.apply("defalt", Target(1, 1, 1))


# Of other people, against values worked out by hand ------------------------------------------------------------------------


def test_the_powers_of_deepseek():
    """At C = 1e20: 0.3118 * 10^-2.5, and 0.2920 * 10^6.542 tokens; a token costs 6 * 1e6 + 12 * 2 * 64 * 128 FLOPs."""
    target = Target(n=2e6, d=1e20 / 6_196_608, seq_len=128, non_embedding=1e6, depth=2, width=64)
    found = recipes.apply("deepseek", target)
    assert found["learning_rate"] == pytest.approx(9.8600e-4, rel=1e-4)
    assert recipes.TABLE["deepseek"].batch(target, {}) == pytest.approx(1.01716e6, rel=1e-4)
    assert found["batch_size"] == 4096  # the power of two below 1.017e6 / 128 = 7,947


def test_the_powers_of_step_law():
    """At N = 1e9 and D = 1e11: 1.79 * 10^(-6.417 + 3.377), and 0.58 * 10^6.281 tokens."""
    target = Target(n=1.1e9, d=1e11, seq_len=2048, non_embedding=1e9)
    assert recipes.apply("step_law", target)["learning_rate"] == pytest.approx(1.63249e-3, rel=1e-4)
    assert recipes.TABLE["step_law"].batch(target, {}) == pytest.approx(1.10771e6, rel=1e-4)


ADAMW = {"b1": 0.9, "b2": 0.95, "eps": 1e-8, "weight_decay": 0.1}


@pytest.mark.parametrize(
    ("tokens", "batch", "lr", "others"),
    [
        (16e6, 16, 0.005, {"b1": 0.975, "b2": 0.9875, "eps": 2e-8, "weight_decay": 0.05}),  # 4 times the steps
        (4e6, 64, 0.02, {"b1": 0.6, "b2": 0.8, "eps": 5e-9, "weight_decay": 0.2}),  # a quarter of them
        (16e6, 64, 0.01, {}),  # as many: more tokens in larger batches
    ],
)
def test_hyperparameters_follow_from_the_steps(tokens, batch, lr, others):
    """With the ratio s of steps: the rate s^-1/2, 1 - b1 and 1 - b2 s^-1, epsilon s^1/2, decay s^-1/2."""
    target = Target(n=1e6, d=tokens, seq_len=128, batch_size=batch, options=ADAMW)
    found = recipes.apply("completedp", target, {"learning_rate": 0.01})
    assert found["learning_rate"] == pytest.approx(lr)
    assert {name: found[name] for name in ADAMW if name in found} == pytest.approx(others)


def test_a_recipe_says_its_source_and_reference_and_refuses_what_it_does_not_read():
    target = Target(n=1e6, d=1e8, seq_len=128, n_reference=1e5, options=ADAMW)
    for name, recipe in recipes.TABLE.items():
        found = recipes.apply(name, target._replace(non_embedding=9e5))
        assert found["source"] == recipe.source and found["reference"] == recipe.reference
    assert recipes.apply("mup", target, {"width": 128})["reference"]["width"] == 128
    with pytest.raises(
        BadInput, match="recipe.reference.tokens: completep does not read it .it reads width, mlp_width"
    ):
        recipes.apply("completep", target, {"tokens": 1e6})
