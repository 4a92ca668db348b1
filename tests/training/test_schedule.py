"""Schedules against their closed forms."""

import math

import numpy as np
import pytest
from hypothesis import given, strategies as st
from ml_collections import ConfigDict

from training import schedule


def config(name, **options):
    keys = (
        "warmup_steps",
        "warmup_tokens",
        "warmup_fraction",
        "final_fraction",
        "decay_fraction",
        "boundaries",
        "factor",
    )
    return ConfigDict({"name": name, **dict.fromkeys(keys), **options})


@given(st.sampled_from(sorted(schedule.TABLE)), st.integers(10, 300), st.floats(0.02, 0.5))
def test_every_schedule_warms_up_and_stays_within_the_peak(name, steps, warmup_fraction):
    warmup = max(1, round(steps * warmup_fraction))
    values = schedule.values(config(name), steps, warmup)
    assert values.shape == (steps,) and values.dtype == np.float32
    np.testing.assert_allclose(values[:warmup], np.arange(1, warmup + 1) / warmup, rtol=1e-6)
    assert np.all(values > 0) or name in ("linear", "wsd")
    assert np.all(values <= 1) and np.all(np.diff(values[warmup:]) <= 1e-7)


def test_closed_forms():
    steps, warmup = 100, 10
    u = (np.arange(10, 100) - 10) / 90
    at = lambda name, **options: schedule.values(config(name, **options), steps, warmup)[10:]
    np.testing.assert_allclose(at("cosine"), 0.1 + 0.9 * (1 + np.cos(math.pi * u)) / 2, rtol=1e-6)
    np.testing.assert_allclose(at("linear", final_fraction=0.2), 1 - 0.8 * u, rtol=1e-6)
    np.testing.assert_allclose(at("exponential"), 0.01**u, rtol=1e-6)
    np.testing.assert_allclose(at("inverse_sqrt"), np.sqrt(10 / np.arange(10, 100)), rtol=1e-6)
    np.testing.assert_allclose(at("steps"), np.repeat([1, 0.1, 0.01], [40, 25, 25]), rtol=1e-6)
    wsd = at("wsd")
    np.testing.assert_allclose(wsd[:70], 1)  # the decay takes the last fifth of the whole duration
    np.testing.assert_allclose(wsd[70:], 1 - np.arange(20) / 20, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", ["constant"])
def test_without_warmup(name):
    np.testing.assert_array_equal(schedule.values(config(name), 5, 0), np.ones(5))
