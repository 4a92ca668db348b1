"""Exact derivatives: of hyper-dual numbers, of objectives, of laws that are written with JAX; and who imports JAX."""

import dataclasses
import itertools
import subprocess
import sys
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import laws
from laws.base.differentiate import BLOCKS, second_order
from laws.base.hyperdual import BINARY, UNARY, variables
from laws.data.token_cost import TokenCost
from laws.estimation.derivatives import Problems
from laws.estimation.estimate import estimate
from laws.estimation.objectives import OBJECTIVES
from laws.inference.allocation import allocate
from laws.inference.resampling import pairs_bootstrap
from laws.model.coordinates import Coordinates
from laws.model.forms import find

AT = (0.7, 1.3)  # where every function is smooth


def assert_same(found, function, at=AT):
    """The hyper-dual number has the value and the derivatives that JAX finds."""
    with jax.enable_x64(True):
        at = jnp.asarray(at)
        value, first, second = (
            function(*at),
            jax.grad(lambda v: function(*v))(at),
            jax.hessian(lambda v: function(*v))(at),
        )
    assert found.value == pytest.approx(float(value), rel=1e-12)
    for i in range(len(at)):
        assert found.first.get(i, 0.0) == pytest.approx(float(first[i]), rel=1e-12, abs=1e-12), i
    for i, j in itertools.combinations_with_replacement(range(len(at)), 2):
        assert found.second.get((i, j), 0.0) == pytest.approx(float(second[i, j]), rel=1e-12, abs=1e-12), (i, j)


@pytest.mark.parametrize("ufunc", UNARY, ids=lambda ufunc: ufunc.__name__)
def test_functions_of_one_number(ufunc):
    x, y = variables(AT)
    assert_same(ufunc(x * y * y), lambda x, y: getattr(jnp, ufunc.__name__)(x * y * y))


@pytest.mark.parametrize("ufunc", BINARY, ids=lambda ufunc: ufunc.__name__)
def test_functions_of_two_numbers(ufunc):
    x, y = variables(AT)
    by_jax = getattr(jnp, ufunc.__name__)
    assert_same(ufunc(x * y, x + y), lambda x, y: by_jax(x * y, x + y))
    assert_same(ufunc(x * y, 1.7), lambda x, y: by_jax(x * y, 1.7))
    assert_same(ufunc(np.array(0.3), x * y), lambda x, y: by_jax(0.3, x * y))


def test_operators():
    x, y = variables(AT)
    function = lambda x, y: abs(-x) * (2 - y) / x + y**3 / (1 + x) - 2**x + x**y - (3 * y - x) / 4 + 0.0 * y
    assert_same(function(x, y), function)


@pytest.mark.parametrize("compare", [np.less, np.less_equal, np.greater, np.greater_equal])
def test_where_and_clip_choose_derivatives_with_values(compare):
    x, y = variables(AT)
    for one, other in ((x, y), (y, x)):
        chosen = np.where(compare(one, other), one**2, other)
        expected = one**2 if compare(one.value, other.value) else other
        assert chosen.value == expected.value and dict(chosen.first).items() >= dict(expected.first).items()
    assert (x < y, x > y, x <= x, y >= x) == (x.value < y.value, x.value > y.value, True, y.value >= x.value)
    assert np.clip(x, x.value + 1, None).value == x.value + 1 and not np.any(
        list(np.clip(x, None, -9.0).first.values())
    )
    assert np.clip(x, x.value - 1, x.value + 1).first[0] == 1.0


def test_broadcasting_keeps_what_depends_on_little_small():
    rows = np.linspace(1.0, 2.0, 7)
    a, b = variables([np.full((3, 1), 2.0), np.full((3, 1), 0.5)])
    found = a + np.exp(-b * np.log(rows))
    assert found.shape == (3, 7)
    assert set(found.second) == {(1, 1)}
    assert np.shape(found.first[0]) == ()
    assert found.second[1, 1] == pytest.approx(np.broadcast_to(np.log(rows) ** 2 * rows**-0.5, (3, 7)))
    total = (found * a)[:, :2].sum(-1)
    assert total.value == pytest.approx(2 * (4 + 1 + rows[1] ** -0.5))
    assert total.first[0] == pytest.approx(2 * 4 + 1 + rows[1] ** -0.5)


def test_derivatives_are_never_lost_unnoticed():
    (x,) = variables([1.0])
    lossy: tuple[Callable, ...] = (np.asarray, float, jnp.exp, np.arctan, np.cumsum)
    for lose in lossy:
        with pytest.raises(TypeError):
            lose(x)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_psi_is_the_derivative_of_the_loss(name):
    objective, delta, step = OBJECTIVES[name], 1e-2, 1e-7
    residual = np.array([-0.3, -0.02, -4e-3, 3e-3, 0.05, 0.4])
    numeric = lambda function: (function(residual + step, delta) - function(residual - step, delta)) / (2 * step)
    assert objective.psi(residual, delta) == pytest.approx(numeric(objective), rel=1e-6)
    assert objective.psi_prime(residual, delta) == pytest.approx(numeric(objective.psi), rel=1e-6)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_gradient_and_hessian_of_a_fit(name, sweep):
    """Against JAX, which differentiates the sum as it is written."""
    law, table = find("chinchilla"), laws.load(sweep)
    columns, log_loss = {variable: table.values[variable] for variable in "nd"}, np.log(table.loss)
    coordinates, objective, delta = Coordinates.of(law, columns), OBJECTIVES[name], 1e-2
    weight = np.random.default_rng(0).integers(0, 3, len(table)).astype(float)
    point = np.asarray(coordinates.to_unconstrained(np.array([28.0, 60.0, 1.01, 0.42, 0.34])))
    problems = Problems(coordinates, columns, log_loss[None], weight[None], objective, delta)

    def total(point):
        residual = law.log_value(coordinates.to_params(point), columns) - log_loss
        huber = jnp.where(jnp.abs(residual) <= delta, residual**2 / 2, delta * (jnp.abs(residual) - delta / 2))
        half = residual**2 / 2
        losses = {
            "log_huber": huber,
            "log_squared": half,
            "log_asymmetric": jnp.where(residual > 0, half, huber),
            "squared": jnp.expm1(residual) ** 2 / 2,
        }
        return jnp.sum(weight * losses[name])

    with jax.enable_x64(True):
        value, gradient, hessian = total(point), jax.grad(total)(point), jax.hessian(total)(point)
    found = problems.derivatives(point[None], np.array([0]))
    assert found.value[0] == pytest.approx(float(value), rel=1e-12)
    assert found.gradient[0] == pytest.approx(np.asarray(gradient), rel=1e-9)
    assert found.hessian[0] == pytest.approx(np.asarray(hessian), rel=1e-9)
    assert (np.linalg.eigvalsh(found.metric[0]) > 0).all()


@pytest.fixture(scope="module")
def in_jax():
    """Chinchilla's law as a stranger may write it, and with no closed form for the best split."""
    value = lambda p, x: p["E"] + p["A"] * jnp.power(x["n"], -p["alpha"]) + p["B"] * jnp.power(x["d"], -p["beta"])
    return dataclasses.replace(find("chinchilla"), name="mine", value=value, optimal_n=None, exponents=None)


def test_a_law_in_jax_fits_as_one_in_numpy(in_jax, sweep):
    table, compute = laws.load(sweep), np.geomspace(1e11, 1e13, 3)
    curve = TokenCost((0.01, -0.1, 0.2), 10.0, 9.0, 12.0)
    by_jax, by_numpy = (estimate(law, table) for law in (in_jax, find("chinchilla")))
    assert by_jax.value == pytest.approx(by_numpy.value, rel=1e-12)
    assert by_jax.params == pytest.approx(by_numpy.params, rel=1e-9)
    resampled = [pairs_bootstrap(point, table, np.ones(len(table)), 150).params for point in (by_jax, by_numpy)]
    assert np.median(resampled[0], axis=0) == pytest.approx(np.median(resampled[1], axis=0), rel=1e-5)
    for cost in (TokenCost(), curve):
        both = [allocate(point.law, by_numpy.params[None], compute, cost, (1e4, 1e6)) for point in (by_jax, by_numpy)]
        for name in ("n", "d", "loss", "a", "b"):
            assert getattr(both[0], name) == pytest.approx(getattr(both[1], name), rel=1e-8), (name, cost)


def test_jax_compiles_for_few_numbers_of_points():
    shapes = set()

    def function(values, points, shared):
        shapes.add(values[0].shape)
        return jnp.exp(-values[0] * shared["x"]) * points["scale"] + values[1]

    differentiated = second_order(function)
    for count in (1, 3, 8, 9, 127, 300):
        a, b, scale = np.linspace(0.1, 1, count), np.linspace(2, 3, count), np.linspace(1, 4, count)
        found = differentiated([a, b], {"scale": scale}, {"x": 0.5})
        assert found.value == pytest.approx(np.exp(-a / 2) * scale + b, rel=1e-12)
        assert found.first[0] == pytest.approx(-0.5 * np.exp(-a / 2) * scale, rel=1e-12)
        assert found.second[0, 0] == pytest.approx(0.25 * np.exp(-a / 2) * scale, rel=1e-12)
        assert (found.second[0, 1] == 0).all() and (found.first[1] == 1).all()
    assert {shape for shape in shapes if shape} == {(1,), *((size,) for size in BLOCKS)}


FIT = """
import sys
import laws
heavy = {"jax", "matplotlib", "pandas", "scipy", "numpy"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
from isoflop import cli
assert cli.main(["fit", sys.argv[1], "--resamples=20", "--out=" + sys.argv[2]]) == 0
heavy = {"jax", "matplotlib", "scipy.stats"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
"""


def test_neither_importing_laws_nor_fitting_one_imports_jax(sweep, tmp_path):
    sweep.to_parquet(tmp_path / "runs.parquet")
    done = subprocess.run(
        [sys.executable, "-c", FIT, str(tmp_path / "runs.parquet"), str(tmp_path / "fit.json")],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert laws.read_fit(tmp_path / "fit.json").params["alpha"] > 0
