"""The learning-rate rules of images against the sweeps they were measured by."""

import csv
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from training.errors import BadInput
from vision import recipes

MEASURED = Path(__file__).parents[2] / "benchmarks" / "results" / "image_lr.csv"
NEAR = 1.08  # of the best loss


def curves():
    """(study, optimizer, N, images, images a step) -> rates, losses and their standard errors."""
    groups = defaultdict(list)
    for row in csv.DictReader(MEASURED.open()):
        counts = (int(row[name]) for name in ("params_total", "examples", "batch_size"))
        groups[row["study"], row["optimizer"], *counts].append(
            tuple(float(row[name]) for name in ("peak_lr", "loss", "loss_sem"))
        )
    return {key: tuple(map(np.array, zip(*sorted(runs), strict=True))) for key, runs in groups.items()}


def test_both_kinds_of_optimizer_were_measured_at_several_sizes():
    found = curves()
    assert {key[1] for key in found} == {"adamw", "nesterov"} and len(found) >= 11
    assert all(len(rates) >= 5 for rates, _, _ in found.values())


@pytest.mark.parametrize("key", sorted(curves()), ids=str)
def test_the_rule_is_near_the_best_rate_and_half_of_it_is_worse(key):
    _, optimizer, n, images, batch = key
    rates, losses, errors = curves()[key]
    rule = recipes.apply("default", n, images, optimizer, batch)["learning_rate"]
    at = lambda rate: np.interp(np.log(rate), np.log(rates), losses)
    assert rates[0] < rule <= rates[-1]
    assert at(rule) < NEAR * losses.min() and at(rule) < NEAR * at(2 * rule)
    assert at(rule) < at(rule / 2) + errors.max()


def test_batches_leave_enough_steps_and_grow_with_the_images():
    sizes = [recipes.apply("default", 1e5, d, "adamw")["batch_size"] for d in (1e3, 1e4, 1e5, 1e6, 1e8, 1e10)]
    assert sizes == sorted(sizes) and sizes[2:4] == [128, 128] and sizes[-1] > 1000
    assert all(d / size >= 400 for d, size in zip((1e3, 1e4, 1e5), sizes, strict=False))


def test_rates_follow_the_batch_and_the_kind_of_optimizer():
    few, many = (recipes.apply("default", 1e6, 1e6, "adamw", batch)["learning_rate"] for batch in (128, 512))
    assert many == pytest.approx(2 * few)
    assert recipes.apply("default", 1e6, 1e6, "momentum", 128)["learning_rate"] == pytest.approx(0.6)


def test_an_unknown_recipe_is_named():
    with pytest.raises(BadInput, match="recipe.name: no 'defalt'; did you mean 'default'"):
        recipes.apply("defalt", 1, 1, "adamw")
