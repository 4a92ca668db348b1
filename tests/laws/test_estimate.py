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
from laws.base.array_math import power
from laws.base.errors import FitFailed, InputError
from laws.estimation.estimate import estimate, log_predictions, starting_points, weights_of
from laws.estimation.newton import minimise
from laws.estimation.objectives import OBJECTIVES
from laws.model.coordinates import Coordinates
from laws.model.forms import find
from laws.model.law import Law, Param
from laws.results.report_parts import WarningKind

NAMES = {"n": "n", "d": "d", "c": "c"}


def table_of(law, constants, runs=40, seed=0, noise=0.0):
    rng = np.random.default_rng(seed)
    n, d = 10 ** rng.uniform(7, 10, runs), 10 ** rng.uniform(9, 11.5, runs)
    columns = {"n": n, "d": d, "c": 6 * n * d}
    loss = np.exp(log_predictions(law, np.array([constants]), columns)[0] + noise * rng.standard_normal(runs))
    return laws.load(pd.DataFrame(columns | {"loss": loss}), **NAMES)


@pytest.mark.parametrize(
    ("name", "constants"),
    [("kaplan", (8.8e13, 5.4e13, 0.076, 0.095)), ("power_offset_d", (300.0, 1.5, 0.24))],
)
def test_recovers_the_truth(name, constants):
    """Every law is fitted to itself in test_forms.py; these two are also identified to the last constant."""
    law = find(name)
    found = estimate(law, table_of(law, constants))
    assert list(found.constants.values()) == pytest.approx(constants, rel=1e-4)
    assert not found.at_bound


@settings(max_examples=5)
@given(st.floats(0.2, 0.6), st.floats(0.2, 0.6), st.floats(0.5, 2.5))
def test_recovers_chinchilla_anywhere(alpha, beta, floor):
    law = find("chinchilla")
    truth = (1e8**alpha, 1e10**beta, floor, alpha, beta)
    found = estimate(law, table_of(law, truth))
    assert list(found.constants.values()) == pytest.approx(truth, rel=1e-3)


def test_sum_and_tight_tolerance_reach_the_exponent():
    """A mean-reduced Huber loss with default tolerances stops early; this one must not (LAWS.md, trap 1)."""
    law = find("chinchilla")
    table = table_of(law, (500.0, 1800.0, 1.8, 0.34, 0.34), runs=240, noise=0.005)
    found = estimate(law, table)
    again = minimise(law, table.values, np.log(table.loss)[None], np.ones((1, 240)), found.params[None])
    assert found.decrement < 1e-12
    assert again.value[0] == pytest.approx(found.value, rel=1e-12)
    a = found.constants["beta"] / (found.constants["alpha"] + found.constants["beta"])
    assert a == pytest.approx(0.5, abs=0.02)


def test_problems_that_are_evaluated_together_do_not_touch_each_other(monkeypatch):
    d = np.geomspace(1e3, 1e6, 17)
    noise = np.exp(0.01 * np.random.default_rng(0).standard_normal(17))
    table = laws.load(pd.DataFrame({"d": d, "loss": (0.1 + 0.8 * (d / 1e3) ** -0.4) * noise}), d="d")
    together = table.fit("power_offset_d", resamples=20).report
    monkeypatch.setattr("laws.estimation.derivatives.CELLS", 1)
    alone = table.fit("power_offset_d", resamples=20).report
    for name in alone.params:
        np.testing.assert_allclose(together.params[name], alone.params[name], rtol=1e-9)
        np.testing.assert_allclose(together.samples[name], alone.samples[name], rtol=1e-9)
    assert together.objective.value == pytest.approx(alone.objective.value, rel=1e-12)


def test_no_worse_than_scipy():
    """The same objective from the same starts, with scipy's L-BFGS-B and gradients by finite differences."""
    from scipy.optimize import minimize

    law = find("chinchilla")
    table = table_of(law, (500.0, 1800.0, 1.8, 0.34, 0.34), noise=0.01)
    n, d, y = np.log(table.values["n"]), np.log(table.values["d"]), np.log(table.loss)

    def objective(p):
        a, b, e, alpha, beta = p
        r = np.abs(np.logaddexp(np.logaddexp(a - alpha * n, b - beta * d), e) - y)
        return np.sum(np.where(r <= 1e-3, r**2 / 2, 1e-3 * (r - 5e-4)))

    starts = starting_points(law, table.values, table.loss, np.ones(40))[::18]
    unconstrained = np.concatenate([np.log(starts[:, :3]), starts[:, 3:]], axis=1)
    theirs = min(minimize(objective, start, method="L-BFGS-B").fun for start in unconstrained)
    ours = estimate(law, table)
    assert ours.value <= theirs * (1 + 1e-9)
    assert objective(np.r_[np.log(ours.params[:3]), ours.params[3:]]) == pytest.approx(ours.value, rel=1e-9)


def test_a_model_made_after_a_fit_is_float32():
    law = find("power_c")
    estimate(law, table_of(law, (30.0, 0.05)))
    variables = nn.Dense(3).init(jax.random.key(0), jnp.ones((2, 2)))
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    assert jnp.asarray(1.0).dtype == jnp.float32
    assert not jax.config.jax_enable_x64


def test_floor_at_zero_is_reported():
    law = find("chinchilla")
    table = table_of(law, (60.0, 100.0, 1e-9, 0.15, 0.15), noise=0.004, seed=3)
    fit = table.fit(law, resamples=0)
    if fit.params["E"] == 0:
        assert any("at a bound: E = 0" in str(warning) for warning in fit.warnings)
    loss = np.exp(log_predictions(law, np.array([(60.0, 100.0, 0.0, 0.15, 0.15)]), table.values)[0]) - 0.2
    floorless = laws.load(pd.DataFrame(table.values | {"loss": loss}), **NAMES).fit(law, resamples=0)
    assert floorless.params["E"] == 0
    assert floorless.certificate.at_bound == ("E",)
    (warning,) = (warning for warning in floorless.warnings if warning.kind == WarningKind.AT_BOUND)
    assert "at a bound: E = 0" in warning.text


def test_a_start_at_the_answer_is_reported():
    law = find("power_c")
    table = table_of(law, (30.0, 0.053))
    assert estimate(law, table, starts=np.array([[30.0, 0.053]])).equals_start
    assert not estimate(law, table).equals_start


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
        estimate(redundant, laws.load(frame, c="c"))


@pytest.fixture(scope="module")
def scattered():
    """Runs of a power law, some of them badly tuned: those lie above it, and never below."""
    law, rng = find("power_d"), np.random.default_rng(1)
    d = np.geomspace(1e8, 1e12, 60)
    loss = law.value({"k": 15.0, "p": 0.08}, {"d": d}) * np.exp(0.001 * rng.standard_normal(60))
    loss[::2] *= 1 + rng.exponential(0.1, 30)
    return laws.load(pd.DataFrame({"d": d, "loss": loss, "sem": np.where(np.arange(60) % 2, 0.002, 0.2)}), d="d")


def test_squares_are_of_the_loss_itself(scattered):
    """Against scipy's curve_fit, which minimises the sum of squares of loss minus prediction."""
    from scipy.optimize import curve_fit

    found = estimate(find("power_d"), scattered, "squared")
    d = scattered.values["d"]
    theirs, _ = curve_fit(lambda d, k, p: k * d**-p, d, scattered.loss, (10.0, 0.1))
    assert found.params == pytest.approx(theirs, rel=1e-5)
    residual = scattered.loss - found.constants["k"] * d ** -found.constants["p"]
    assert found.value == pytest.approx(0.5 * np.sum(residual**2), rel=1e-9)
    in_logs = estimate(find("power_d"), scattered, "log_squared")
    slope, intercept = np.polyfit(np.log(d), np.log(scattered.loss), 1)
    assert in_logs.params == pytest.approx([np.exp(intercept), -slope], rel=1e-9)


def test_the_asymmetric_objective_keeps_to_the_lower_edge(scattered):
    truth = find("power_d").value({"k": 15.0, "p": 0.08}, scattered.values)
    distance = {
        name: np.abs(np.exp(estimate(find("power_d"), scattered, name).predict(scattered.values)) / truth - 1).max()
        for name in ("log_squared", "log_huber", "log_asymmetric")
    }
    assert distance["log_asymmetric"] < 0.01 < distance["log_squared"]
    assert distance["log_asymmetric"] < distance["log_huber"]


def test_objectives_by_their_definition():
    residual = jnp.array([-0.1, -1e-4, 0.0, 1e-4, 0.1])
    half = 0.5 * residual**2
    linear = 1e-3 * (0.1 - 5e-4)
    for name, ends in {
        "log_squared": (half[0], half[4]),
        "log_huber": (linear, linear),
        "log_asymmetric": (linear, half[4]),  # a run above the law, then one below it
        "squared": (0.5 * np.expm1(-0.1) ** 2, 0.5 * np.expm1(0.1) ** 2),
    }.items():
        found = OBJECTIVES[name](residual, jnp.array(1e-3))
        assert found[2] == 0
        assert (float(found[0]), float(found[4])) == pytest.approx(tuple(map(float, ends)), rel=1e-5), name
        assert np.asarray(found[1:4]) == pytest.approx(np.asarray(half[1:4]), rel=1e-3), name
    assert set(OBJECTIVES) == {"log_huber", "log_squared", "squared", "log_asymmetric"}


def test_noisy_runs_weigh_less(scattered):
    """Trap: sigma = 1 / std^2. The rows with the larger standard errors are the ones that must not matter."""
    table = laws.load(scattered.frame, d="d", loss_stderr="sem")
    weight = weights_of(table, np.ones(60, bool))
    assert weight.mean() == pytest.approx(1)
    assert weight[1::2].min() > 100 * weight[::2].max()
    relative_squared = (table.noise / table.loss) ** 2 * weight
    assert relative_squared == pytest.approx(np.full(60, relative_squared[0]))
    raw = table.noise**2 * weights_of(table, np.ones(60, bool), "squared")
    assert raw == pytest.approx(np.full(60, raw[0]))
    quiet, loud = (
        np.abs(estimate(find("power_d"), t, "log_squared").constants["p"] - 0.08) for t in (table, scattered)
    )
    assert quiet < loud / 5
    assert weights_of(table, np.arange(60) < 30)[30:].sum() == 0
    assert table.fit("power_d", resamples=0).report.weights == "1 / sem^2, mean one"
    assert scattered.fit("power_d", resamples=0).report.weights == "one a row"


def test_constants_held_fixed(tmp_path):
    law = find("chinchilla")
    truth = dict(zip(law.names, (400.0, 1500.0, 1.7, 0.34, 0.37), strict=True))
    table = table_of(law, tuple(truth.values()), noise=0.002)
    held = table.fit(law, resamples=0, fixed={"alpha": 0.34, "E": 1.7})
    assert set(held.params.index) == {"A", "B", "beta"}
    assert held.report.fixed == {"alpha": 0.34, "E": 1.7}
    # No set of held constants has a lower objective than the free fit.
    assert held.report.objective.value > estimate(law, table).value
    derived = held.report.derived
    assert derived["a_6nd" if "a_6nd" in derived else "a"] == pytest.approx(
        held.params["beta"] / (0.34 + held.params["beta"])
    )
    again = laws.read_fit(held.save(tmp_path / "fit.json"))
    at = {"n": 1e9, "d": 1e11}
    assert again.forecast(**at).value == held.forecast(**at).value
    by_hand = law.value(held.params.to_dict() | {"alpha": 0.34, "E": 1.7}, at)
    assert held.forecast(**at).value == pytest.approx(by_hand, rel=1e-12)


@pytest.mark.parametrize(
    ("fixed", "said"),
    [
        ({"alfa": 0.3}, "has no constant 'alfa'; did you mean 'alpha'"),
        ({"alpha": np.nan}, "alpha cannot be held at nan"),
        ({"A": 1, "B": 1, "E": 1, "alpha": 1, "beta": 1}, "none is left to fit"),
    ],
)
def test_constants_that_cannot_be_held(fixed, said):
    with pytest.raises(InputError, match=said):
        find("chinchilla").with_fixed(fixed)


def test_what_is_held_leaves_the_others_their_digits():
    """A term that is tiny beside a held one is not lost in the difference of the two."""
    held = find("chinchilla").with_fixed({"E": 1e3})
    without, units = held.terms({"alpha": 5.0, "beta": 0.3}, {"n": 1e10, "d": 1e10})
    assert without == 1e3
    assert units["A"] == pytest.approx(1e-50, rel=1e-12)
    assert units["B"] == pytest.approx(1e-3, rel=1e-12)


def test_starts_may_follow_the_table():
    law = find("frontier_c")
    columns = {"c": np.geomspace(1e3, 1e6, 20)}
    loss = law.value({"k": 5.0, "E": 0.1, "x0": 500.0, "p": 0.3}, columns)
    points = starting_points(law, columns, loss, np.ones(20))
    assert np.unique(points[:, law.names.index("x0")]) == pytest.approx([10.0, 100.0, 1e3, 1e4])
    # Only rows that count set the range.
    few = starting_points(law, columns, loss, (columns["c"] > 5e3).astype(float))
    assert few[:, law.names.index("x0")].min() > 50


def test_a_law_without_a_split_goes_all_the_way(tmp_path):
    """Learning rates: fitted, resampled, predicted, drawn; no loss, and no compute-optimal size."""
    rng = np.random.default_rng(0)
    n, d = 10 ** rng.uniform(7, 10, 40), 10 ** rng.uniform(9, 12, 40)
    rate = 1.79 * n**-0.713 * d**0.307 * np.exp(0.02 * rng.standard_normal(40))
    table = laws.load(pd.DataFrame({"n": n, "d": d, "peak_lr": rate}), n="n", d="d", loss="peak_lr")
    fit = table.fit("lr_step", objective="log_squared", resamples=50)
    assert fit.params["p"] == pytest.approx(0.713, abs=0.02)
    forecast = fit.forecast(n=1e9, d=1e11)
    assert forecast.observable == "learning rate"
    assert forecast.interval[0] < 1.79 * 1e9**-0.713 * 1e11**0.307 < forecast.interval[1]
    assert fit.derived.empty and fit.report.derived == {} and fit.report.target_flops is None
    with pytest.raises(InputError, match="no compute-optimal split"):
        fit.forecast(compute=1e20)
    drawn = {path.name for path in fit.plot_all(tmp_path)}
    assert {"residuals.png", "residuals.svg"} <= drawn and not {"isoflop.png", "surface.png"} & drawn


def test_a_law_of_the_loss_fitted_to_the_error_says_so(tmp_path):
    d = np.geomspace(1e3, 1e6, 12)
    table = laws.load(pd.DataFrame({"d": d, "error": 0.1 + 0.8 * (d / 1e3) ** -0.4}), d="d", loss="error")
    fit = table.fit("power_offset_d", resamples=0)
    assert fit.forecast(d=1e7).observable == fit.observable == "error"
    assert laws.read_fit(fit.save(tmp_path / "fit.json")).observable == "error"


def test_predictions_of_more_columns(tmp_path):
    law = find("data_constrained")
    constants = (520.82, 1487.7, 1.86914, 0.3527, 0.3527, 15.4, 5.3)
    rng = np.random.default_rng(0)
    columns = {"n": 10 ** rng.uniform(8, 10, 40), "unique_tokens": 10 ** rng.uniform(8, 10, 40)}
    columns["d"] = columns["unique_tokens"] * rng.uniform(2, 40, 40)
    loss = law.value(law.constants(np.array(constants)), columns)
    held = dict(zip(law.names[:5], constants[:5], strict=True))
    names = {"unique_tokens": "unique", "n": "n", "d": "d"}
    frame = pd.DataFrame({"n": columns["n"], "d": columns["d"], "unique": columns["unique_tokens"], "loss": loss})
    fit = laws.load(frame, columns=names).fit(law, resamples=0, fixed=held)
    assert fit.params.to_dict() == pytest.approx({"rd": 15.4, "rn": 5.3}, rel=1e-6)
    at = {"n": 1e9, "d": 1e11, "unique_tokens": 1e10}
    assert fit.forecast(**at).value == pytest.approx(law.value(law.constants(np.array(constants)), at))
    # The best split of a budget at given unique tokens, against a search.
    sizes = np.geomspace(1e8, 1e11, 200_001)
    for unique in (1e9, 1e12):
        best = fit.forecast(compute=1e22, unique_tokens=unique)
        losses = law.value(
            law.constants(np.array(constants)), {"n": sizes, "d": 1e22 / 6 / sizes, "unique_tokens": unique}
        )
        assert best.inputs["unique_tokens"] == unique
        assert best.value == pytest.approx(losses.min(), rel=1e-9)
        assert best.split.n == best.inputs["n"] == pytest.approx(sizes[np.argmin(losses)], rel=1e-3)
    # A frozen prediction is scored in a table that is read with the same columns.
    at_unique = {"compute": 1e22, "unique_tokens": 1e9}
    frozen = laws.freeze(fit, tmp_path / "frozen.json", **at_unique)
    assert frozen.target == {"c": 1e22, "unique_tokens": 1e9}
    split = frozen.prediction.split
    row = {"n": split.n, "d": split.d, "unique": 1e9, "loss": frozen.prediction.value * 1.01}
    path = tmp_path / "later.csv"
    pd.concat([frame, pd.DataFrame([row])]).assign(ended_at=frozen.created_at + 60).to_csv(path, index=False)
    scored = laws.score(tmp_path / "frozen.json", path)
    assert scored.measured.values["unique_tokens"] == 1e9
    assert scored.abs_rel_error == pytest.approx(1 - 1 / 1.01)
    for request, message in (
        ({"n": 1e9, "d": 1e11}, "needs unique_tokens for a prediction"),
        ({"compute": 1e22}, r"no compute-optimal split \(give it unique_tokens as well\)"),
        ({"compute": 1e22, "unique_tokens": 1e9, "n": 1e9}, "not both"),
        ({**at, "experts": 8}, "does not read experts"),
        ({**at, "unique_tokens": 0}, "unique_tokens must be positive, and is 0.0"),
        ({**at, "zz": 1}, "no variable is called 'zz'"),
    ):
        with pytest.raises(InputError, match=message):
            fit.forecast(**request)


def test_too_few_runs_for_the_law():
    law = find("chinchilla")
    with pytest.raises(InputError, match="5 runs are too few for law 'chinchilla'"):
        estimate(law, table_of(law, (400.0, 1500.0, 1.7, 0.34, 0.37), runs=5))


def test_coordinates_are_inverse():
    law = find("chinchilla")
    columns = table_of(law, (400.0, 1500.0, 1.7, 0.34, 0.37)).values
    coordinates = Coordinates.of(law, columns)
    params = np.array([[400.0, 1500.0, 1.7, 0.34, 0.37], [1.0, 2.0, 3.0, 0.5, 0.1]])
    unconstrained = coordinates.to_unconstrained(params)
    assert coordinates.to_params(unconstrained) == pytest.approx(params, rel=1e-12)
    # The linear constants have become what they add to the loss at the centre of the runs.
    assert unconstrained[0, 0] == pytest.approx(400.0 / coordinates.centre["n"] ** 0.34, rel=1e-12)


def test_unknown_law_names_the_nearest():
    with pytest.raises(InputError, match="did you mean 'chinchilla'"):
        find("chinchila")


def test_a_law_of_ones_own_in_a_few_lines():
    """What docs/howto/own_law.md shows: declare, fit, predict."""
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
    fit = laws.load(frame, d="d").fit(law, resamples=0)
    assert fit.params.to_dict() == pytest.approx({"E": 2.0, "k": 3.0, "D0": 5e9}, rel=1e-5)
    assert fit.forecast(d=1e10).value == pytest.approx(3.0, rel=1e-5)


def test_import_loads_no_large_package_and_starts_no_device():
    packages = ("jax", "numpy", "scipy", "pandas", "matplotlib", "plotly")
    code = f"import sys, laws; print([name for name in {packages} if name in sys.modules])"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert process.stdout == "[]\n"


def test_a_large_table_is_fitted_through_a_sample_of_its_rows(monkeypatch):
    """The sample only chooses among the starts: the optimum and its certificate are of all rows."""
    from laws.estimation import estimate as fits

    rng = np.random.default_rng(0)
    n, d = np.exp(rng.uniform(16, 21, 1000)), np.exp(rng.uniform(20, 25, 1000))
    loss = (1.7 + 400 * n**-0.34 + 500 * d**-0.29) * np.exp(0.01 * rng.standard_normal(1000))
    table = laws.load(pd.DataFrame({"n": n, "d": d, "loss": loss}), n="n", d="d")
    whole = fits.estimate(find("chinchilla"), table)
    monkeypatch.setattr(fits, "LARGE", 240)
    sampled = fits.estimate(find("chinchilla"), table)
    assert sampled.value == pytest.approx(whole.value, rel=1e-9)
    assert sampled.params == pytest.approx(whole.params, rel=1e-5)
    assert sampled.starts == whole.starts and sampled.at_best > 50 and sampled.decrement < 1e-10
