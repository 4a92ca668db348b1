"""The optimiser and its certificate, on tables whose truth is known."""

import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st

import laws
from laws.errors import BadTable, FitFailed
from laws.fit import fit, log_predictions, starting_points
from laws.forms import LAWS, find
from laws.law import Coordinates, Law, Param
from laws.ops import power
from laws.solve import minimise

NAMES = {"n": "n", "d": "d", "c": "c"}


def table_of(law, constants, runs=40, seed=0, noise=0.0):
    rng = np.random.default_rng(seed)
    n, d = 10 ** rng.uniform(7, 10, runs), 10 ** rng.uniform(9, 11.5, runs)
    columns = {"n": n, "d": d, "c": 6 * n * d}
    loss = np.exp(log_predictions(law, np.array([constants]), columns)[0] + noise * rng.standard_normal(runs))
    return laws.load(pd.DataFrame(columns | {"loss": loss}), **NAMES)


@pytest.mark.parametrize(
    ("name", "constants"),
    [
        ("chinchilla", (400.0, 1500.0, 1.7, 0.34, 0.37)),
        ("kaplan", (8.8e13, 5.4e13, 0.076, 0.095)),
        ("power_n", (12.0, 0.07)),
        ("power_d", (15.0, 0.08)),
        ("power_c", (30.0, 0.053)),
        ("power_offset_n", (150.0, 1.9, 0.26)),
        ("power_offset_d", (300.0, 1.5, 0.24)),
        ("power_offset_c", (1500.0, 1.7, 0.16)),
    ],
)
def test_recovers_the_truth(name, constants):
    law = find(name)
    found = fit(law, table_of(law, constants))
    assert list(found.constants.values()) == pytest.approx(constants, rel=1e-4)
    assert not found.at_bound


def test_every_law_has_a_recovery_test():
    tested = test_recovers_the_truth.pytestmark[0].args[1]
    assert {name for name, _ in tested} == set(LAWS)


@settings(max_examples=8)
@given(st.floats(0.2, 0.6), st.floats(0.2, 0.6), st.floats(0.5, 2.5))
def test_recovers_chinchilla_anywhere(alpha, beta, floor):
    law = find("chinchilla")
    truth = (1e8**alpha, 1e10**beta, floor, alpha, beta)
    found = fit(law, table_of(law, truth))
    assert list(found.constants.values()) == pytest.approx(truth, rel=1e-3)


def test_sum_and_tight_tolerance_reach_the_exponent():
    """A mean-reduced Huber loss with default tolerances stops early; this one must not (LAWS.md, trap 1)."""
    law = find("chinchilla")
    table = table_of(law, (500.0, 1800.0, 1.8, 0.34, 0.34), runs=240, noise=0.005)
    found = fit(law, table)
    again = minimise(law, table.values, np.log(table.loss)[None], np.ones((1, 240)), found.natural[None])
    assert found.decrement < 1e-12
    assert again.value[0] == pytest.approx(found.value, rel=1e-12)
    a = found.constants["beta"] / (found.constants["alpha"] + found.constants["beta"])
    assert a == pytest.approx(0.5, abs=0.02)


def test_no_worse_than_scipy():
    """The same objective from the same starts, with scipy's L-BFGS-B and gradients by finite differences."""
    from scipy.optimize import minimize

    law = find("chinchilla")
    table = table_of(law, (500.0, 1800.0, 1.8, 0.34, 0.34), runs=60, noise=0.01)
    n, d, y = np.log(table.values["n"]), np.log(table.values["d"]), np.log(table.loss)

    def objective(p):
        a, b, e, alpha, beta = p
        r = np.abs(np.logaddexp(np.logaddexp(a - alpha * n, b - beta * d), e) - y)
        return np.sum(np.where(r <= 1e-3, r**2 / 2, 1e-3 * (r - 5e-4)))

    starts = starting_points(law, table.values, table.loss, np.ones(60))[::9]
    free = np.concatenate([np.log(starts[:, :3]), starts[:, 3:]], axis=1)
    theirs = min(minimize(objective, start, method="L-BFGS-B").fun for start in free)
    ours = fit(law, table)
    assert ours.value <= theirs * (1 + 1e-9)
    assert objective(np.r_[np.log(ours.natural[:3]), ours.natural[3:]]) == pytest.approx(ours.value, rel=1e-9)


def test_a_model_made_after_a_fit_is_float32():
    law = find("power_c")
    fit(law, table_of(law, (30.0, 0.05)))
    variables = nn.Dense(3).init(jax.random.key(0), jnp.ones((2, 2)))
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    assert jnp.asarray(1.0).dtype == jnp.float32
    assert not jax.config.jax_enable_x64


def test_floor_at_zero_is_reported():
    law = find("chinchilla")
    table = table_of(law, (60.0, 100.0, 1e-9, 0.15, 0.15), noise=0.004, seed=3)
    found = table.fit(law, resamples=0)
    if found.params["E"] == 0:
        assert any("at a bound: E = 0" in text for text in found.warnings)
    loss = np.exp(log_predictions(law, np.array([(60.0, 100.0, 0.0, 0.15, 0.15)]), table.values)[0]) - 0.2
    floorless = laws.load(pd.DataFrame(table.values | {"loss": loss}), **NAMES).fit(law, resamples=0)
    assert floorless.params["E"] == 0
    assert floorless.report["certificate"]["at_bound"] == ["E"]
    assert any("at a bound: E = 0" in text for text in floorless.warnings)


def test_a_start_at_the_answer_is_reported():
    law = find("power_c")
    table = table_of(law, (30.0, 0.053))
    assert fit(law, table, starts=np.array([[30.0, 0.053]])).equals_start
    assert not fit(law, table).equals_start


def test_no_optimum_fails():
    """Two constants that only matter through their product: no runs can tell them apart."""
    redundant = Law(
        name="redundant",
        formula="L = k q / C^p",
        source="",
        columns=("c",),
        params=(
            Param("k", "", 1e-9, 1e9, starts=(1.0, 10.0)),
            Param("q", "", 1e-9, 1e9, starts=(1.0, 10.0)),
            Param("p", "", 0.0, 2.0, "linear", (0.05, 0.3)),
        ),
        value=lambda p, x: p["k"] * p["q"] * power(x["c"], -p["p"]),
    )
    frame = pd.DataFrame({"c": np.geomspace(1, 10, 8), "loss": 3 - 0.1 * np.arange(8)})
    with pytest.raises(FitFailed, match="not at an optimum"):
        fit(redundant, laws.load(frame, c="c"))


def test_too_few_runs_for_the_law():
    law = find("chinchilla")
    with pytest.raises(BadTable, match="5 runs are too few for law 'chinchilla'"):
        fit(law, table_of(law, (400.0, 1500.0, 1.7, 0.34, 0.37), runs=5))


def test_coordinates_are_inverse():
    law = find("chinchilla")
    columns = table_of(law, (400.0, 1500.0, 1.7, 0.34, 0.37)).values
    coordinates = Coordinates.of(law, columns)
    natural = np.array([[400.0, 1500.0, 1.7, 0.34, 0.37], [1.0, 2.0, 3.0, 0.5, 0.1]])
    free = coordinates.free(natural)
    assert coordinates.natural(free) == pytest.approx(natural, rel=1e-12)
    # The linear constants have become what they add to the loss at the centre of the runs.
    assert free[0, 0] == pytest.approx(400.0 / coordinates.centre["n"] ** 0.34, rel=1e-12)


def test_unknown_law_names_the_nearest():
    with pytest.raises(BadTable, match="did you mean 'chinchilla'"):
        find("chinchila")


def test_a_law_of_ones_own_in_a_few_lines():
    """What the README shows: declare, fit, predict."""
    law = Law(
        name="saturating",
        formula="L(D) = E + k / (1 + D / D0)",
        source="a test",
        columns=("d",),
        params=(
            Param("E", "floor"),
            Param("k", "height"),
            Param("D0", "scale", 1e3, 1e15, starts=(1e8, 1e9, 1e10, 1e11)),
        ),
        value=lambda p, x: p["E"] + p["k"] / (1 + x["d"] / p["D0"]),
        linear=("E", "k"),
    )
    d = np.geomspace(1e8, 1e12, 30)
    frame = pd.DataFrame({"d": d, "loss": 2 + 3 / (1 + d / 5e9)})
    found = laws.load(frame, d="d").fit(law, resamples=20)
    assert found.params == pytest.approx({"E": 2.0, "k": 3.0, "D0": 5e9}, rel=1e-5)
    assert found.predict(d=1e10)["loss"] == pytest.approx(3.0, rel=1e-5)


def test_import_is_fast_and_starts_no_device():
    code = (
        "import sys, time; t = time.perf_counter(); import laws; print(time.perf_counter() - t, 'jax' in sys.modules)"
    )
    seconds, started = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert float(seconds) < 1.5
    assert started == "False"
