"""What `isoflop train` tells of a run while it trains: loss, speed, share of the peak, time left."""

import dataclasses
import types

import jax
import pytest

from isoflop.commands import train
from training.config import resolve

FORWARD = 1e13  # FLOPs an example; 0.5 steps a second of 16 examples come to 2.4e14 a second, forward and backward


@pytest.fixture
def shown(toy, monkeypatch, capsys):
    """What standard error holds of a run of 24 steps of 16 examples of 5 tokens, at two seconds a step."""
    clock, small = [0.0], toy.cost
    large = {"tokens_per_example": 5, "forward": {"all": FORWARD}}
    monkeypatch.setattr(toy, "cost", lambda config: dataclasses.replace(small(config), **large))
    monkeypatch.setattr(train, "time", types.SimpleNamespace(monotonic=lambda: clock[0]))

    def show(*steps):
        with train.watching(resolve(toy.config())) as observe:
            for step in steps:
                clock[0] = 100 + 2.0 * step
                observe(step, {"loss": 1 / step})
        return capsys.readouterr().err

    return show


def test_a_line_now_and_then_tells_speed_and_time_left(shown):
    lines = [" ".join(line.split()) for line in shown(1, 2, 11, 12, 23, 24).splitlines()]
    assert lines == [
        "step 1/24 loss 1.0000",  # from here on it is measured: before, there was compiling
        "step 11/24 loss 0.0909 40 tokens/s 0:00:26 left",
        "step 23/24 loss 0.0435 40 tokens/s 0:00:02 left",
        "step 24/24 loss 0.0417 40 tokens/s 0:00:00 left",
    ]


def test_a_run_that_goes_on_is_not_credited_with_earlier_steps(shown):
    assert "tokens/s" not in shown(20) and "20/24" in shown(20)


def test_the_share_of_the_peak_is_told_where_it_is_known(shown, monkeypatch):
    assert "MFU" not in shown(1, 24)
    monkeypatch.setattr(jax, "devices", lambda: [types.SimpleNamespace(device_kind="NVIDIA H100 80GB HBM3")])
    monkeypatch.setattr(jax, "device_count", lambda: 2)
    assert f"40 tokens/s  MFU {8 * 3 * FORWARD / (2 * 494.7e12):.1%}" in shown(1, 24)


def test_a_terminal_shows_a_bar_with_the_same(shown, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")
    text = shown(1, 12)
    assert "49 parameters: compiling" in text
    assert "loss 0.0833  40 tokens/s  0:00:24 left" in text and "12/24" in text
