"""Laws of one's own: what a declaration may not contain, what is checked at the runs, and float64 for ``jax.numpy``."""

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from scipy.special import erf, expit

import laws
from isoflop import cli
from laws import InputError, Law, Param
from laws.estimation.estimate import estimate
from laws.inference.profile import collinear
from laws.model.forms import FAMILIES, LAWS, find

E, A = Param("E", "irreducible loss"), Param("A", "weight of size")
ALPHA = Param("alpha", "exponent of size", 1e-3, 5.0, "linear", starts=(0.1, 0.3, 0.6))


def declared(value=lambda p, x: p["E"] + p["A"] * x["n"] ** -p["alpha"], **changed) -> Law:
    """A power law with an offset, some fields of it changed."""
    fields = {"columns": ("n",), "params": (E, A, ALPHA), "linear": ("E", "A"), "name": "mine"} | changed
    return Law(formula="L(N) = E + A / N^alpha", source="ours", value=value, **fields)


def runs(count=12, seed=0) -> laws.Runs:
    """Runs of a law of size that err by 0.1%."""
    n = np.geomspace(1e6, 1e10, count)
    loss = (1.7 + 400 * n**-0.34) * np.exp(1e-3 * np.random.default_rng(seed).standard_normal(count))
    return laws.load(pd.DataFrame({"n": n, "loss": loss}), n="n", loss="loss")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"name": "my law"}, "law 'my law': the name of a law is a word"),
        ({"name": "a:b"}, "the name of a law is a word without spaces, '=', ',' and ':'"),
        ({"value": 3.0}, r"value is a function of constants and columns, and is 3\.0"),
        ({"params": ()}, "it has no constants"),
        ({"columns": ()}, "it reads no column"),
        ({"columns": "n"}, "columns is a tuple of names, and is 'n'"),
        ({"linear": "E"}, "linear is a tuple of names, and is 'E'"),
        ({"params": (E, A, "alpha")}, "params is a tuple of Param"),
        ({"params": (E, A, ALPHA, ALPHA)}, "params names 'alpha' more than once"),
        ({"columns": ("n", "n")}, "columns names 'n' more than once"),
        ({"columns": ("size",)}, "columns: no variable is called 'size'"),
        ({"optional": ("d",)}, "optional: 'd' is not among its columns"),
        ({"linear": ("E", "a")}, "linear: 'a' is not among its constants; did you mean 'A'"),
        ({"linear": ("E",)}, "constant 'A' has no starts, and is not among the linear ones"),
    ],
)
def test_a_declaration_that_contradicts_itself(changed, message):
    with pytest.raises(InputError, match=message) as refusal:
        declared(**changed)
    assert str(refusal.value).startswith(f"law '{changed.get('name', 'mine')}': ")
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"name": "al=pha"}, "constant 'al=pha' needs a name without"),
        ({"scale": "lin"}, "constant 'alpha' has the scale 'lin'; scales are 'log' and 'linear'"),
        ({"low": 5.0}, r"constant 'alpha' has the bounds low=5\.0 and high=5\.0; the lower one must be less"),
        ({"high": float("nan")}, "the lower one must be less"),
        ({"low": -1.0, "scale": "log"}, "is fitted on a logarithmic scale, where low=-1 cannot be"),
        ({"starts": ()}, "constant 'alpha' has no starts"),
        ({"starts": (0.1, 6.0)}, r"constant 'alpha' starts at 6, which is outside its bounds 0\.001 and 5"),
        ({"starts": (0.0,), "low": 0.0, "scale": "log"}, "constant 'alpha' starts at 0"),
        ({"starts": ("a",)}, "constant 'alpha' has starts that are neither numbers nor a function"),
        ({"starts": 0.3}, r"constant 'alpha' has starts that are neither .*: 0\.3"),
        ({"starts": (float("nan"),)}, "constant 'alpha' has starts that are neither numbers"),
    ],
)
def test_a_constant_that_cannot_be_fitted(changed, message):
    with pytest.raises(InputError, match=message) as refusal:
        declared(params=(E, A, replace(ALPHA, **changed)))
    assert str(refusal.value).startswith("law 'mine': constant '")


def test_bounds_of_a_linear_constant_are_refused():
    with pytest.raises(InputError, match="constant 'A' is linear, so its bounds are 0 and infinity: low=1"):
        declared(params=(E, replace(A, low=1.0), ALPHA))


def test_a_law_with_the_name_of_another_is_refused():
    """Its fit.json would be read as a fit of the other."""
    with pytest.raises(InputError, match="law 'power_n': isoflop has another law of that name"):
        runs().fit(declared(name="power_n"), resamples=0)
    assert find(LAWS["power_n"]) is LAWS["power_n"]
    held = LAWS["chinchilla"].with_fixed({"E": 1.7})
    assert find(held) is held


@pytest.mark.parametrize("family", FAMILIES)
def test_a_law_of_one_variable_is_declared_for_every_variable(family):
    law, of_size = find(f"{family}_unique_tokens"), find(f"{family}_n")
    assert find(law.name) is law and law.name not in LAWS
    assert (law.columns, law.names, law.linear) == (("unique_tokens",), of_size.names, of_size.linear)
    assert "U" in law.formula and of_size is LAWS[f"{family}_n"]
    with pytest.raises(InputError, match=f"no law is called '{family}_pretrained'.*{family}_VARIABLE"):
        find(f"{family}_pretrained")  # not positive


def test_a_power_law_of_another_variable_is_fitted_and_read_again(tmp_path):
    width = np.geomspace(64, 4096, 10)
    table = pd.DataFrame({"width": width, "loss": 1.5 + 20 * width**-0.4})
    fit = laws.load(table).fit("power_offset_width", resamples=0)
    assert dict(fit.params) == pytest.approx({"k": 20, "E": 1.5, "p": 0.4}, rel=1e-6)
    assert laws.read_fit(fit.save(tmp_path / "fit.json")).params.equals(fit.params)


def test_lists_are_taken_as_tuples():
    """Before, starts in a list ended in ``TypeError: unhashable type``."""
    law = declared(columns=["n"], params=[E, A, replace(ALPHA, starts=[0.1, 0.3, 0.6])], linear=["E", "A"])
    assert law.params[2].starts == (0.1, 0.3, 0.6)
    assert isinstance(hash(law), int)
    fit, same = (runs().fit(one, resamples=0) for one in (law, declared()))
    assert dict(fit.params) == dict(same.params)
    assert replace(ALPHA, starts=np.array([0.1, 0.3, 0.6])) == ALPHA


def test_laws_of_one_declaration_are_equal():
    law = declared()
    assert replace(law) == law and hash(replace(law)) == hash(law)
    assert replace(law, name="other") != law
    assert (
        declared(lambda p, x: p["E"] + p["A"] * x["n"] ** -p["alpha"]) != law
    )  # another function, though written alike


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (lambda p, x: p["E"] + p["A"] * x["n"] ** -p["beta"], "neither a constant nor a column is called 'beta'"),
        (lambda p, x: p["E"] + p["A"] * x["d"] ** -p["alpha"], "neither a constant nor a column is called 'd'"),
        (lambda p, x: 1 // 0, "value cannot be evaluated .ZeroDivisionError"),
        (lambda p, x: "loss", "value gives <U4 of shape"),
        (
            lambda p, x: (p["E"] + p["A"] * x["n"] ** -p["alpha"])[..., None],
            r"value gives float64 of shape \(1, 12, 1\)",
        ),
        (lambda p, x: p["E"] + p["A"] * (x["n"] / x["n"].max()) ** -p["alpha"], "value is not elementwise"),
        (lambda p, x: p["E"] + p["A"] ** 2 * x["n"] ** -p["alpha"], "value is not linear in 'A'"),
        (lambda p, x: p["E"] + (p["A"] / x["n"]) ** p["alpha"], "value is not linear in 'A'"),
        (lambda p, x: p["E"] + p["A"] * (1 + p["E"]) * x["n"] ** -p["alpha"], "not linear in E, A together"),
        (lambda p, x: -p["E"] - p["A"] * x["n"] ** -p["alpha"], "at none of its 3 starts is value finite and positive"),
        (
            lambda p, x: p["E"] + p["A"] * x["n"] ** -0.3 + 0 * abs(p["alpha"] - p["alpha"]) ** 0.5,
            "the derivative of value in 'alpha' is not finite",
        ),
        (lambda p, x: np.sort(p["E"] + p["A"] * x["n"] ** -p["alpha"])[..., ::-1], "value cannot be differentiated"),
        (lambda p, x: p["E"] + 0 * x["n"].mean(), "value cannot be differentiated .AttributeError"),
        (lambda p, x: p["E"] + p["A"] * erf(p["alpha"]) * x["n"] ** -p["alpha"], "by a function of scipy or math"),
        (lambda p, x: (p["E"] + p["A"] * x["n"] ** -p["alpha"]).astype(np.float32), "value gives float32 of shape"),
    ],
)
def test_a_law_that_does_not_keep_its_declaration(value, message):
    """Each of these was once a traceback, or a fit that blamed the runs."""
    with pytest.raises(InputError, match=message) as refusal:
        runs().fit(declared(value), resamples=0)
    assert str(refusal.value).startswith("law 'mine': ")
    assert "\n" not in str(refusal.value)


def test_a_law_that_cannot_be_differentiated_in_what_it_reads():
    """Its constants are fitted, and then the compute-optimal split is looked for along n and d."""
    n, d = np.repeat([1e7, 1e8, 1e9], 4), np.tile([1e9, 4e9, 2e10, 1e11], 3)
    table = laws.load(pd.DataFrame({"n": n, "d": d, "loss": 1.7 + 400 / n**0.3 + 400 / d**0.3}), n="n", d="d")
    law = declared(
        lambda p, x: p["E"] + p["A"] * (x["n"] ** -p["alpha"] + expit(x["d"]) * x["d"] ** -p["alpha"]),
        columns=("n", "d"),
    )
    with pytest.raises(InputError, match=r"law 'mine': value cannot be differentiated .*scipy") as refusal:
        table.fit(law, resamples=0)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("value", "same"),
    [
        (lambda x: np.where(x["n"] > 1e8, x["n"], 1e8), lambda x: jnp.where(x["n"] > 1e8, x["n"], 1e8)),
        (lambda x: np.clip(x["n"], 1e7, None), lambda x: jnp.clip(x["n"], 1e7, None)),
    ],
)
def test_choices_in_numpy_are_those_in_jax(value, same):
    of_size = lambda size: lambda p, x: p["E"] + p["A"] * size(x) ** -p["alpha"]
    in_numpy, in_jax = (runs().fit(declared(of_size(size)), resamples=0) for size in (value, same))
    assert dict(in_numpy.params) == pytest.approx(dict(in_jax.params), rel=1e-6)


def test_conditions_on_constants_need_no_jax():
    """Where and clip of constants carry derivatives, so that the law is one of numpy."""
    law = declared(
        lambda p, x: p["E"] + p["A"] * x["n"] ** -np.where(p["alpha"] > 0.0, np.clip(p["alpha"], 0.0, 9.0), 1.0)
    )
    expected = runs().fit(declared(), resamples=0).params
    assert dict(runs().fit(law, resamples=0).params) == pytest.approx(dict(expected), rel=1e-6)


def test_starts_that_have_no_values():
    with pytest.raises(InputError, match="the starts of 'alpha' have no values .KeyError: 'd'"):
        runs().fit(declared(params=(E, A, replace(ALPHA, starts=lambda rows: rows["d"].min()))), resamples=0)
    with pytest.raises(InputError, match="the starts of 'alpha' are .nan. at these runs"):
        runs().fit(declared(params=(E, A, replace(ALPHA, starts=lambda rows: np.array([np.nan])))), resamples=0)


@pytest.mark.parametrize("body", ["starts=[]", "starts=[0.3], low=1", 'starts=[0.3], scale="cubic"'])
def test_the_command_refuses_a_bad_law_in_one_line(tmp_path, capsys, body):
    (tmp_path / "mylaw.py").write_text(
        "from laws import Law, Param\n"
        f'MINE = Law("mine", "L = k / N^p", "ours", ("n",), (Param("k", "weight"), Param("p", "exponent", {body})),\n'
        '           lambda p, x: p["k"] * x["n"] ** -p["p"], ("k",))\n'
    )
    table = Path(__file__).parents[2] / "notebooks" / "data" / "demo" / "runs.parquet"
    assert cli.main(["fit", str(table), f"--law={tmp_path / 'mylaw.py'}:MINE"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "law 'mine': constant 'p'" in line


# The law of docs/howto/own_law.md, in numpy and in jax.numpy.
STEPPED = Law(
    name="stepped",
    formula="L(N, S) = E + A / N^alpha + B / S^beta",
    source="ours",
    columns=("n", "d"),
    params=(E, A, Param("B", "weight of steps"), ALPHA, replace(ALPHA, name="beta")),
    value=lambda p, x: p["E"] + p["A"] * x["n"] ** -p["alpha"] + p["B"] * x["d"] ** -p["beta"],
    linear=("E", "A", "B"),
)
IN_JAX = replace(
    STEPPED,
    value=lambda p, x: (
        p["E"] + p["A"] * jnp.power(x["n"], -p["alpha"]) + p["B"] * jnp.exp(-p["beta"] * jnp.log(x["d"]))
    ),
)


@pytest.fixture(scope="module")
def grid() -> laws.Runs:
    """Runs over sizes and data that err by 0.3%."""
    n, d = np.repeat(np.geomspace(1e7, 1e9, 5), 5), np.tile(np.geomspace(1e9, 1e11, 5), 5)
    loss = 1.7 + 400 * n**-0.34 + 410 * d**-0.28
    loss = loss * np.exp(3e-3 * np.random.default_rng(0).standard_normal(len(loss)))
    return laws.load(pd.DataFrame({"n": n, "d": d, "loss": loss}), n="n", d="d", loss="loss")


def test_a_law_in_jax_is_float64_wherever_it_is_called():
    point, rows = (
        {"E": 1.7, "A": 400.0, "B": 410.0, "alpha": 0.34, "beta": 0.28},
        {"n": 1e9, "d": np.array([2e10, 3e10])},
    )
    value = IN_JAX.value(point, rows)
    assert isinstance(value, np.ndarray) and value.dtype == np.float64
    assert value == pytest.approx(STEPPED.value(point, rows), rel=1e-14)
    nonlinear = {"alpha": 0.34, "beta": 0.28}
    (rest, units), (same_rest, same_units) = IN_JAX.terms(nonlinear, rows), STEPPED.terms(nonlinear, rows)
    assert rest == pytest.approx(same_rest, abs=1e-14)
    for name, unit in same_units.items():
        assert np.asarray(units[name]) == pytest.approx(np.asarray(unit), rel=1e-12), name
    params = np.array([1.7, 400.0, 410.0, 0.34, 0.28])
    assert IN_JAX.log_value(params, rows) == pytest.approx(STEPPED.log_value(params, rows), rel=1e-14)
    assert jnp.asarray(1.0).dtype == jnp.float32  # the caller's own JAX is as it was


def test_a_law_that_imports_jax_itself_is_float64_from_the_first_call():
    program = (
        "import sys\n"
        "from laws import Law, Param\n"
        "def value(p, x):\n"
        "    import jax.numpy as jnp\n"
        "    return p['k'] * jnp.power(x['n'], -p['p'])\n"
        "params = (Param('k', ''), Param('p', '', 0, 5, 'linear', (0.3,)))\n"
        "law = Law('lazy', 'k / N^p', 'ours', ('n',), params, value, ('k',))\n"
        "assert 'jax' not in sys.modules\n"
        "print(repr(float(law.value({'k': 3.0, 'p': 0.3}, {'n': 1e9}))))\n"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert float(run.stdout) == pytest.approx(3 * 1e9**-0.3, rel=1e-14)


def test_a_law_in_jax_has_the_optimum_of_the_same_law_in_numpy(grid):
    in_numpy, in_jax = (estimate(law, grid) for law in (STEPPED, IN_JAX))
    assert in_jax.constants == pytest.approx(in_numpy.constants, rel=1e-9)
    centre = {"n": 1e8, "d": 1e10}
    assert collinear(IN_JAX, in_numpy.params, centre) == collinear(STEPPED, in_numpy.params, centre) == ("A", "B")


@pytest.mark.slow
def test_a_law_in_jax_gives_the_forecast_of_the_same_law_in_numpy(grid):
    in_numpy, in_jax = (grid.fit(law, resamples=50) for law in (STEPPED, IN_JAX))
    assert dict(in_jax.params) == pytest.approx(dict(in_numpy.params), rel=1e-9)
    columns = {"n": np.array([1e8, 1e10]), "d": np.array([1e10, 1e12])}
    draws = [fit.predictor.log_losses(columns) for fit in (in_numpy, in_jax)]
    assert draws[0].shape[1] == 2 and len(draws[0]) >= 50
    assert draws[1] == pytest.approx(draws[0], rel=1e-9)


@pytest.mark.parametrize("field", ["optimal_n", "exponents"])
def test_closed_forms_in_jax_are_float64(field):
    law = LAWS["chinchilla"]
    point = {"A": 406.4, "B": 410.7, "E": 1.69, "alpha": 0.336, "beta": 0.283}
    arguments = (point, 1e21) if field == "optimal_n" else (point,)
    in_numpy = getattr(law, field)(*arguments)
    through_jax = replace(law, **{field: lambda *given: _jaxed(getattr(law, field)(*given))})
    assert np.asarray(getattr(through_jax, field)(*arguments)) == pytest.approx(np.asarray(in_numpy), rel=1e-15)


def _jaxed(values):
    return tuple(map(jnp.asarray, values)) if isinstance(values, tuple) else jnp.asarray(values)


def test_declarations_are_not_evaluated_when_laws_are_imported():
    """A ``value`` is called by nothing before a fit: 64 of them would slow every command."""
    program = (
        "import laws.base.x64 as x64\n"
        "def refuse(self, *arguments): raise AssertionError('evaluated')\n"
        "x64.InFloat64.__call__ = refuse\n"
        "import laws\n"
        "print(len(laws.LAWS), laws.LAWS['power_c'].names)\n"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert re.fullmatch(r"\d+ \('k', 'p'\)\n", run.stdout)
