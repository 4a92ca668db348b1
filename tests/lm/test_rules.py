"""The learning-rate rule against the sweep it was measured by."""

import csv
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from lm import rules
from training.errors import BadInput

MEASURED = Path(__file__).parents[2] / "benchmarks" / "results" / "demo_lr.csv"


def curves():
    groups = defaultdict(list)
    for row in csv.DictReader(MEASURED.open()):
        key = (int(row["params_total"]), int(row["tokens"]), int(row["batch_tokens"]))
        groups[key].append((float(row["peak_lr"]), float(row["loss"])))
    return groups


@pytest.mark.parametrize("key", sorted(curves()))
def test_the_rule_sits_near_the_measured_optimum(key):
    n, d, batch_tokens = key
    rates, losses = map(np.array, zip(*sorted(curves()[key]), strict=True))
    best = int(np.clip(losses.argmin(), 1, len(rates) - 2))
    around = slice(best - 1, best + 2)
    parabola = np.polyfit(np.log(rates[around]), losses[around], 2)
    optimum = np.exp(-parabola[1] / (2 * parabola[0]))
    chosen = rules.apply("default", n, d, 128, batch_tokens // 128)["peak_lr"]
    assert parabola[0] > 0
    assert abs(np.log(chosen / optimum)) < np.log(1.3)


def test_batches_leave_enough_steps_and_grow_with_the_data():
    for d in (2e5, 1e6, 5e6, 1e8, 2e10):
        rule = rules.apply("default", 1e5, d, 128)
        assert d / (rule["batch_size"] * 128) >= 400
        assert rule["batch_size"] & (rule["batch_size"] - 1) == 0
    sizes = [rules.apply("default", 1e5, d, 128)["batch_size"] for d in (1e5, 1e6, 1e7, 1e9, 1e11)]
    assert sizes == sorted(sizes) and sizes[-1] > 1000


def test_a_given_batch_moves_rate_and_warmup():
    small, large = (rules.apply("default", 1e5, 1e7, 128, b) for b in (4, 64))
    assert large["peak_lr"] == pytest.approx(2 * small["peak_lr"])
    assert small["warmup_steps"] == pytest.approx(16 * large["warmup_steps"], rel=0.01)


def test_an_unknown_rule_is_named():
    with pytest.raises(BadInput, match="rules: no 'defalt'; did you mean 'default'"):
        rules.apply("defalt", 1, 1, 1)
