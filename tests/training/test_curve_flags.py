"""Rules of curves: each on curves that were drawn to meet it, and on power laws that meet none."""

import numpy as np
import pytest
import toy

from training import curve_flags, loop
from training.lines import read_metrics


def curve(loss, rate=lambda place: 1.0, noise=0.02, lines=100):
    rng, place = np.random.default_rng(0), np.arange(1, lines + 1) / lines
    values = np.array([loss(p) for p in place]) + noise * rng.normal(size=lines)
    return [
        {"step": 10 * (i + 1), "loss": float(values[i]), "learning_rate": rate(place[i]), "tokens": 0}
        for i in range(lines)
    ]


CASES = {
    "power_law": (curve(lambda p: 2 + p**-0.3), None),
    "steep": (curve(lambda p: 2 + 0.05 * p**-0.8, noise=0.001), None),
    "risen": (curve(lambda p: 2 + p**-0.3 + 3 * p), "risen"),
    "risen_within_noise": (curve(lambda p: 4 + 0.01 * p, noise=0.5), None),
    "plateau": (curve(lambda p: 3 + np.exp(-20 * p), noise=0.001), "plateau"),
    "flat_while_the_rate_is_low": (curve(lambda p: 3 + np.exp(-20 * p), rate=lambda p: 1 - p, noise=0.001), None),
    "too_short": (curve(lambda p: 3 + np.exp(-20 * p), noise=0.001, lines=6), None),
    "too_noisy_to_say": (curve(lambda p: 3 + np.exp(-20 * p)), None),
}


@pytest.mark.parametrize("name", CASES)
def test_the_rule_that_a_curve_meets(name):
    lines, rule = CASES[name]
    assert curve_flags.flag(lines, 10 * len(lines)) == rule
    assert curve_flags.flag(lines, 10 * len(lines), diverged=True) == "not_finite"


def test_a_record_names_the_rule(tmp_path):
    """Far too high a rate of plain SGD throws the loss up; a tame run meets no rule."""
    wild = {"optimizer.name": "sgd", "optimizer.clip": 0.0, "schedule.name": "constant", "duration.steps": 60}
    wild |= {"optimizer.learning_rate": 0.001, "schedule.warmup_steps": 0}
    assert loop.run(toy.config(**wild), tmp_path / "tame")["curve_flag"] is None
    result = loop.run(toy.config(**wild | {"optimizer.learning_rate": 4.0}), tmp_path / "wild")
    assert result["curve_flag"] in ("risen", "not_finite"), [line["loss"] for line in read_metrics(tmp_path / "wild")]
