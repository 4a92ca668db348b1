"""Every declared law: what its declaration promises, and noiseless runs of known constants fitted and predicted again."""

import itertools
import re
import shlex
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from schedules import published_schedule
from tiers import tiered

import laws
from isoflop import cli
from laws.base.errors import InputError
from laws.base.hyperdual import variables
from laws.estimation.estimate import estimate, log_predictions, starting_points
from laws.estimation.law_checks import check_law, check_starts
from laws.model.coordinates import Coordinates
from laws.model.forms import LAWS, find
from laws.model.forms.schedule import multi_power, schedule_areas
from laws.model.law import LOSS
from laws.model.variables import VARIABLES

RUNS = 48
# Variable -> smallest and largest value of the design, spread evenly in the logarithm (the annealed area as it is).
RANGES = {
    "n": (1e7, 1e10),
    "d": (1e9, 3e11),
    "c": (1e17, 1e22),
    "unique_tokens": (1e8, 1e10),
    "steps": (1e2, 1e5),
    "batch_tokens": (1e4, 1e7),
    "width": (128, 4096),
    "depth": (2, 64),
    "shape": (64, 8192),
    "experts": (1, 512),
    "granularity": (1, 32),
    "density": (0.05, 1),
    "bits_weights": (2, 16),
    "bits_activations": (2, 16),
    "bits_cache": (2, 16),
    "bits_post": (2, 8),
    "params_vocabulary": (1e6, 1e9),
    "replicas": (1, 16),
    "share": (0.05, 1),
    "share_1": (0, 0.33),
    "share_2": (0, 0.33),
    "share_3": (0, 0.33),
    "teacher_loss": (1.8, 3.2),
    "finetune_tokens": (1e5, 1e9),
    "upstream_loss": (2, 6),
    "peak_lr": (1e-4, 1e-2),
    "rate_area": (0.5, 30),
    "annealed_area": (-0.1, 1.5),
    "pretrained": (0, 1),
}
SUPERVISED = {"A_S": 3355, "B_S": 18186, "E_S": 1.220, "alpha_S": 0.408, "beta_S": 0.431, "kappa_S": 0.452}
# Law -> constants, published ones where there are any; for some, constants to hold, as their authors do.
TRUTHS = {
    "chinchilla": (400, 1500, 1.7, 0.34, 0.37),
    "chinchilla_tied": (520.82, 1487.7, 1.869, 0.3527),
    "coupled": (3355, 18186, 1.220, 0.408, 0.431, 0.452),
    "kaplan": (8.8e13, 5.4e13, 0.076, 0.095),
    "kaplan_steps": (6.5e13**0.077, 2.1e3**0.76, 0.077, 0.76),
    "overtraining": (1.6, 180, 230, 0.12),
    "power": (12, 0.07),
    "power_offset": (300, 1.5, 0.24),
    "kaplan_": (8.8e13, 0.076),
    "power_shifted": {"n": (90, 1e9, 0.2), "d": (90, 2e10, 0.2), "c": (90, 1e20, 0.2)},
    "power_bounded": {"n": (0.2, 0.8, 1e3, 0.4, 0.5), "d": (0.2, 0.8, 2e4, 0.4, 0.5), "c": (0.2, 0.8, 3e7, 0.4, 0.5)},
    "frontier": {"n": (60, 1.5, 1e8, 0.2), "d": (60, 1.5, 1e10, 0.2), "c": (60, 1.5, 1e19, 0.12)},
    "growth": (0.292, 0.3271),
    "bnsl1": {r: (0.5, 40, 0.1, 0.25, at, 0.3) for r, at in (("n", 4e8), ("d", 2e10), ("c", 5e19))},
    "bnsl2": {
        r: (0.5, 40, 0.05, 0.25, low, 0.2, -0.15, high, 0.2)
        for r, low, high in (("n", 1e8, 2e9), ("d", 6e9, 6e10), ("c", 5e18, 5e20))
    },
    "bounded": (1.7, 10.8, 40.0, 45.0, 0.5, 0.34, 0.28, 0.7, 0.9),
    "data_constrained": (520.82, 1487.7, 1.86914, 0.3527, 0.3527, 15.387756, 5.309743),
    "shape": (3, 2e3, 2e5, 0.05, 0.7, 0.5, 0.3),
    "width_depth": (1.2, 8, 2, 500, 0.5, 0.7, 0.3),
    "width_depth_params": (1.2, 8, 2, 400, 500, 0.5, 0.7, 0.3, 0.3),
    "downstream_error": (0.9, 0.7, 1.2),
    "task_accuracy": (0.25, 0.6, 3, 3),
    "lr_step": (1.79, 0.713, 0.307),
    "batch_step": (0.58, 0.571),
    "lr_deepseek": (0.3118, 0.125),
    "batch_deepseek": (0.292, 0.3271),
    "critical_batch": (3e3, 2e9),
    "critical_batch_loss": (2e8, 1 / 0.21),
    "chinchilla_batch": (400, 1500, 1.7, 0.34, 0.37, 12.0, 0.47),
    "chinchilla_lr": (400, 1500, 1.7, 0.34, 0.37, 0.03, 1.79, 0.713, 0.307),
    "chinchilla_lr_batch": (400, 1500, 1.7, 0.34, 0.37, 0.03, 1.79, 0.713, 0.307, 0.01, 0.58, 0.571),
    "routed": (-0.082, -0.108, 0.009, 1.104, 1.847, 314.478),
    "fine_grained": (0.47, 2.1, 18.1, 30.8, 0.58, 0.115, 0.147),
    "precision_weights": (4.299e3, 1.806e4, 2.7648, 0.4965, 0.4965, 2.6745),
    "precision": (4.299e3, 1.806e4, 2.7648, 0.4965, 0.4965, 2.6745, 2.2102, 0.9578),
    "precision_post": (0.0598, 0.5068, 0.3439, 0.5907),
    "precision_unified": (
        4.299e3,
        1.806e4,
        2.7648,
        0.4965,
        0.4965,
        2.6745,
        2.2102,
        0.9578,
        0.0598,
        0.5068,
        0.3439,
        0.5907,
        0.3,
        0.5,
        0.8,
    ),
    "sparsity": (0.651, 16.8, 45.0, 6.9e8**0.203, 0.722, 0.245, 0.203),
    "vocabulary": (1.5, 880, 20, 2.3e4, 0.447, 0.671),
    "distillation": (2243, 24181, 0.321, 0.637, 0.764, 2.549, 522.61, 1.315, 0.090, *SUPERVISED.values()),
    "transfer": (1.9e4, 0.18, 0.38),
    "transfer_loss": (8.8e13, 1.8e13 / 1.9e4, 0.076, 0.103, 0.18, 0.38),
    "transfer_joint": (1.7, 400, 1500, 0.34, 0.37, 1.9e4, 0.18, 0.38),
    "annealing": (2.6, 0.6, 0.3, 0.5),
    "mixing_2": (2.0, 1.5, -2.5),
    "mixing_3": (2.0, 1.5, -2.5, 1.5),
    "mixing_4": (2.0, 1.5, -2.5, 1.5, -1.0),
    "bimix": (300, 1.8, 0.3, 0.08),
    "diloco": (19.226, 0.0985, 0.0116),
    "diloco_offset": (60, 1.2, 0.2, 0.02),
    "diloco_tilted": (60, 1.2, 0.2, 0.002),
}
HELD = {
    "data_constrained": ("A", "B", "E", "alpha", "beta"),
    "distillation": tuple(SUPERVISED),
    "precision_unified": ("A", "B", "E", "alpha", "beta", "gamma_w", "gamma_a", "gamma_kv"),
}


def truth_of(name: str) -> np.ndarray:
    """Its constants; those of a law of one column stand under the name of the family."""
    if name in TRUTHS:
        return np.array(TRUTHS[name], float)
    family, variable = name[:-2], name[-1]
    found = TRUTHS[family + "_" if family == "kaplan" else family]
    return np.array(found[variable] if isinstance(found, dict) else found, float)


def design(columns: tuple[str, ...], runs: int = RUNS, stretch: float = 0.0) -> dict[str, np.ndarray]:
    """Runs spread evenly over the ranges of all columns (Sobol's points), or over ranges that are longer by a share."""
    from scipy.stats import qmc

    places = qmc.Sobol(len(columns), seed=0).random(64)[:runs] * (1 + 2 * stretch) - stretch
    out = {}
    for variable, place in zip(columns, places.T, strict=True):
        low, high = RANGES[variable]
        out[variable] = low * (high / low) ** place if VARIABLES[variable].positive else low + (high - low) * place
    if "unique_tokens" in out:
        out["unique_tokens"] = np.minimum(out["unique_tokens"], out["d"])
    return out


def table_of(law, constants, columns, noise=0.0, seed=0):
    loss = np.exp(log_predictions(law, np.asarray(constants)[None], columns)[0])
    loss = loss * np.exp(noise * np.random.default_rng(seed).standard_normal(len(loss)))
    frame = pd.DataFrame(columns | {"observed": loss})
    return laws.load(frame, loss="observed", columns={variable: variable for variable in columns})


QUICK = {"chinchilla_tied", "data_constrained", "lr_step", "routed", "annealing"}


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in LAWS]
)
def test_a_law_is_found_again(name):
    """The objective is nothing, and predictions within and around the design are those of the truth.

    Constants are not compared: some laws have several that give the same curve.
    """
    law, truth = LAWS[name], truth_of(name)
    held = {constant: truth[law.names.index(constant)] for constant in HELD.get(name, ())}
    table = table_of(law, truth, design(law.columns))
    found = estimate(law, table, "log_squared", fixed=held)
    assert found.value < 1e-12
    beyond = design(law.columns, stretch=0.05)
    told = log_predictions(law, truth[None], beyond)[0]
    assert found.predict(beyond) == pytest.approx(told, abs=1e-6)
    assert not found.at_bound


@pytest.mark.parametrize("name", LAWS)
def test_a_declaration_keeps_its_promises(name):
    law, truth, columns = LAWS[name], truth_of(name), design(LAWS[name].columns)
    said = law.constants(truth)
    value = law.value(said, columns)
    assert np.isfinite(value).all() and (value > 0).all()
    # Every constant and every column matters.
    for constant in law.names:
        assert np.abs(law.value(said | {constant: said[constant] * 1.3}, columns) / value - 1).max() > 1e-9, constant
    for variable in law.columns:
        moved = law.value(said, columns | {variable: columns[variable] * (0.8 if variable == "unique_tokens" else 1.2)})
        assert np.abs(moved / value - 1).max() > 1e-9, variable
    # What is called linear is linear, and the optimiser's coordinates lead back.
    nonlinear = {constant: said[constant] for constant in law.names if constant not in law.linear}
    without, units = law.terms(nonlinear, columns)
    if law.linear:
        assert without + sum(said[k] * unit for k, unit in units.items()) == pytest.approx(value, rel=1e-9)
    coordinates = Coordinates.of(law, columns)
    assert coordinates.to_params(coordinates.to_unconstrained(truth)) == pytest.approx(truth, rel=1e-9)
    # The truth and all starts lie within the bounds.
    for param in law.params:
        assert param.low <= said[param.name] <= param.high, param.name
        assert bool(param.starts) != (param.name in law.linear), param.name
    points = starting_points(law, columns, value, np.ones(RUNS))
    assert 1 <= len(points) <= 512
    for param, starts in zip(law.params, points.T, strict=True):
        assert (param.low <= starts).all() and (starts <= param.high).all(), param.name
    # A constant that is held is part of the formula from then on.
    if len(law.params) > 1:
        first = law.names[0]
        held = law.with_fixed({first: said[first]})
        assert held.names == law.names[1:]
        assert held.value(held.constants(truth[1:]), columns) == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize("seed", tiered(range(3), [0]))
@pytest.mark.parametrize("name", LAWS)
def test_derivatives_are_those_that_jax_finds(name, seed):
    """Along a random direction of all constants at once, relative to their sizes."""
    law, truth = LAWS[name], truth_of(name)
    columns = {variable: values[::8] for variable, values in design(law.columns).items()}
    found = law.value(dict(zip(law.names, variables(truth), strict=True)), columns)
    moved = np.asarray(truth) * np.random.default_rng(seed).uniform(-1, 1, len(truth))
    along = lambda t: law.value(law.constants(jnp.asarray(truth) + t * moved), columns)
    slope = lambda t: jax.jvp(along, (t,), (jnp.ones_like(t),))[1]
    with jax.enable_x64(True):
        start, unit = jnp.asarray(0.0), jnp.asarray(1.0)
        value, first, second = map(np.asarray, (along(start), *jax.jvp(slope, (start,), (unit,))))
    twice = lambda i, j: 1 if i == j else 2
    by_pair = [twice(i, j) * moved[i] * moved[j] * partial for (i, j), partial in found.second.items()]
    assert found.value == pytest.approx(value, rel=1e-12)
    assert sum(moved[i] * partial for i, partial in found.first.items()) == pytest.approx(first, rel=1e-9)
    assert sum(by_pair) + 0 * value == pytest.approx(second, rel=1e-9, abs=1e-10 * np.abs(value).max())


def test_all_laws_say_where_they_come_from():
    for law in LAWS.values():
        assert law.formula and law.source, law.name
        assert all(param.meaning for param in law.params), law.name
        assert set(law.columns) <= set(VARIABLES), law.name


def test_what_has_a_compute_optimal_split():
    assert {law.name for law in LAWS.values() if law.has_compute_optimum} == {
        "chinchilla", "chinchilla_tied", "coupled", "kaplan", "overtraining",
        "chinchilla_batch", "chinchilla_lr", "chinchilla_lr_batch",
    }  # fmt: skip
    assert LAWS["lr_step"].observable == "learning rate" != LOSS


@pytest.mark.parametrize("name", ["chinchilla_tied", "overtraining"])
def test_optima_in_closed_form_are_minima(name):
    law, compute = LAWS[name], 1e21
    p = law.constants(truth_of(name))
    n = np.asarray(law.optimal_n(p, compute)) * np.array([0.999, 1.0, 1.001])
    loss = law.value(p, {"n": n, "d": compute / (6 * n)})
    assert loss[1] < min(loss[0], loss[2])
    inflates = law.optimal_n(p, compute * np.e)
    assert np.log(inflates / n[1]) == pytest.approx(law.exponents(p)[0], rel=1e-9)


def test_overtraining_is_chinchilla_with_one_exponent():
    e, a, b, eta = truth_of("overtraining")
    columns = design(("n", "d"))
    tied = {"E": e, "A": a * 6**-eta, "B": b * 6**-eta, "alpha": 2 * eta}
    p = LAWS["overtraining"].constants(np.array([e, a, b, eta]))
    # M^eta / C^eta = 6^-eta / N^(2 eta), and its inverse M^-eta / C^eta = 6^-eta / D^(2 eta).
    assert LAWS["overtraining"].value(p, columns) == pytest.approx(LAWS["chinchilla_tied"].value(tied, columns))


def test_the_bounded_law_solves_its_equation():
    law, x = LAWS["power_bounded_d"], {"d": np.geomspace(1e3, 1e13, 50)}
    for a in (0.05, 0.5, 1.0, 3.0):
        p = law.constants(np.array([0.2, 0.79, 50.0, 0.4, a]))
        y = law.value(p, x)
        left = np.log(y - 0.2) - a * np.log(0.99 - y)
        good = (0.99 - y > 1e-9) & (y - 0.2 > 1e-9)  # where the difference has digits left
        assert good.sum() > 20
        assert left[good] == pytest.approx((np.log(50) - 0.4 * np.log(x["d"]))[good], abs=1e-5)


def test_published_constants():
    """Values that the papers' own numbers give, computed apart from the declarations."""
    rate = LAWS["lr_step"].value({"k": 1.79, "p": 0.713, "q": 0.307}, {"n": 1e9, "d": 1e11})
    assert rate == pytest.approx(1.79 * np.exp(-0.713 * np.log(1e9) + 0.307 * np.log(1e11)))
    p = dict(zip(("S_min", "T_min"), (3e3, 2e9), strict=True))
    batch = np.geomspace(1e4, 1e8, 9)
    steps = LAWS["critical_batch"].value(p, {"batch_tokens": batch})
    assert (steps / 3e3 - 1) * (steps * batch / 2e9 - 1) == pytest.approx(np.ones(9))
    student = LAWS["distillation"]
    p = student.constants(truth_of("distillation"))
    loss = student.value(p, {"n": 1.82e9, "d": 1e11, "teacher_loss": 2.2})
    assert loss == pytest.approx(2.220, abs=1e-3)
    assert loss > 2.2


def test_a_routed_law_of_one_expert_is_dense():
    p = LAWS["routed"].constants(truth_of("routed"))
    n = np.geomspace(1e7, 1e10, 5)
    size = np.log10(n)
    few = np.log10(p["E_start"])
    dense = p["a"] * size + p["b"] * few + p["c"] * size * few + p["d"]
    assert np.log10(LAWS["routed"].value(p, {"n": n, "experts": 1.0})) == pytest.approx(dense, rel=1e-12)
    many = LAWS["routed"].value(p, {"n": n, "experts": 1e12})
    assert many == pytest.approx(LAWS["routed"].value(p, {"n": n, "experts": 1e9}), rel=1e-5)


def test_the_law_of_the_docs(tmp_path, monkeypatch, capsys):
    """The page, word for word: the file, then the commands."""
    root = Path(__file__).parents[2]
    page = (root / "docs" / "howto" / "own_law.md").read_text()
    (code,) = re.findall(r"```python title=\"mylaw.py\"\n(.*?)```", page, re.S)
    (commands,) = re.findall(r"```bash\n(.*?)```", page, re.S)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mylaw.py").write_text(code)
    (tmp_path / "notebooks").symlink_to(root / "notebooks")
    for line in commands.splitlines():
        program, *words = shlex.split(line)
        assert program == "isoflop"
        assert cli.main([*words, *(["--resamples=20"] if words[0] == "fit" else [])]) == 0, capsys.readouterr().err
    assert "L(N, S) = E + A / N^alpha + B / S^beta" in capsys.readouterr().out
    fit = laws.read_fit("mine.json", law="mylaw.py:STEPPED")
    assert fit.report.declared_in == "mylaw.py:STEPPED"
    assert fit.report.columns["steps"] == "steps"
    assert [file.path for file in fit.report.inputs] == ["notebooks/data/demo/runs.parquet", "mylaw.py"]
    assert (tmp_path / "mine" / "residuals.svg").exists()
    # The law is read from the file that is given, wherever it is, and not taken for another.
    with pytest.raises(InputError, match="not executed unasked: give it as law") as refusal:
        laws.read_fit("mine.json")
    assert refusal.value.flag == "--law=mylaw.py:STEPPED"
    (tmp_path / "mylaw.py").rename(tmp_path / "moved.py")
    with pytest.raises(InputError, match=r"mylaw\.py: no such file"):
        laws.read_fit("mine.json", law="mylaw.py:STEPPED")
    assert laws.read_fit("mine.json", law="moved.py:STEPPED").params.equals(fit.params)
    with pytest.raises(InputError, match="a fit of other constants than those of law 'chinchilla_tied'"):
        laws.read_fit("mine.json", law="chinchilla_tied")


@pytest.mark.parametrize(
    ("content", "name", "said"),
    [
        ("LAW = 3", "LAW", "'LAW' is no law"),
        ("1 / 0", "LAW", "cannot be read .ZeroDivisionError"),
        ("from laws.model.forms import LAWS\nMINE = LAWS['kaplan']", "MINES", "did you mean 'MINE'"),
    ],
)
def test_files_that_declare_no_law(tmp_path, content, name, said):
    path = tmp_path / "mylaw.py"
    path.write_text(content)
    with pytest.raises(InputError, match=said):
        find(f"{path}:{name}")
    with pytest.raises(InputError, match="no such file"):
        find(f"{path.with_name('none.py')}:LAW")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--columns=unique_tokens"], "--columns takes NAME=VALUE"),
        (["--columns=unique_tokens=a,unique_tokens=b"], "--columns names unique_tokens twice"),
        (["--columns=zz=loss"], "no variable is called 'zz'"),
        (["--fixed=alpha=x"], "alpha must be a number"),
        (["--fixed=alfa=1"], "did you mean 'alpha'"),
        (["--loss_stderr=tokens"], "is no standard error of the loss"),
        (["--law=data_constrained", "--columns=unique_tokens=nothing"], "no column 'nothing' for unique_tokens"),
        (["--law=none.py:X"], "none.py: no such file"),
    ],
)
def test_bad_words_on_the_command_line(capsys, words, said):
    runs = Path(__file__).parents[2] / "notebooks" / "data" / "demo" / "runs.parquet"
    assert cli.main(["fit", str(runs), *words]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert said in line


def test_areas_of_a_schedule():
    """Against the definition, step by step."""
    rates, momentum = np.r_[np.linspace(0, 1, 5), 0.5 + 0.5 * np.cos(np.linspace(0, 3, 40))] * 1e-2, 0.9
    s1, s2 = schedule_areas(rates, momentum)
    gained, annealed, area = 0.0, [0.0], 0.0
    for before, now in itertools.pairwise(rates):
        gained = momentum * gained + before - now
        area += gained
        annealed.append(area)
    assert s1 == pytest.approx(np.cumsum(rates))
    assert s2 == pytest.approx(np.array(annealed))
    assert s2.min() < 0  # warm-up anneals backwards
    assert (schedule_areas(rates[5:], momentum)[1][1:] > 0).all()


def test_multi_power_law_is_its_sum():
    """Against the double sum of the definition, and taken together in blocks."""
    schedules = [published_schedule("cosine_4000")[::4], published_schedule("constant_6000")[::4]]
    exact, coarse = multi_power(schedules, every=1), multi_power(schedules, every=16)
    constants = {"L0": 3.0, "A": 0.5, "B": 400.0, "alpha": 0.5, "C": 2.0, "beta": 0.58, "gamma": 0.64}
    columns = {"schedule_index": np.array([0.0, 0.0, 1.0, 1.0]), "steps": np.array([600.0, 999.0, 700.0, 1499.0])}
    told = []
    for k, s in zip(columns["schedule_index"].astype(int), columns["steps"].astype(int), strict=True):
        rate = schedules[k]
        fall = 0.0
        for j in range(1, s + 1):
            x = rate[j : s + 1].sum() * rate[j] ** -0.64 if rate[j] else 0.0
            fall += (rate[j - 1] - rate[j]) * (1 - (1 + 2.0 * x) ** -0.58)
        told.append(3.0 + 0.5 * rate[: s + 1].sum() ** -0.5 - 400 * fall)
    assert exact.value(constants, columns) == pytest.approx(np.array(told), rel=1e-9)
    assert coarse.value(constants, columns) == pytest.approx(np.array(told), rel=2e-3)


def test_multi_power_law_of_a_constant_schedule_has_no_drops():
    constants = {"L0": 3.0, "A": 0.5, "B": 400.0, "alpha": 0.5, "C": 2.0, "beta": 0.58, "gamma": 0.64}
    alone = multi_power([np.full(100, 1e-2)])
    beside = multi_power([np.full(100, 1e-2), np.linspace(1e-2, 0, 100)])
    columns = {"schedule_index": np.zeros(2), "steps": np.array([9.0, 99.0])}
    expected = 3.0 + 0.5 * (1e-2 * np.array([10, 100])) ** -0.5
    for law in (alone, beside):
        assert law.value(constants, columns) == pytest.approx(expected, rel=1e-12)


@pytest.mark.slow
def test_multi_power_law_is_found_again():
    schedules = [published_schedule(name)[::16] for name in ("cosine_24000", "wsdcon_9", "constant_24000")]
    law = multi_power(schedules, every=32)
    lengths = [len(rates) for rates in schedules]
    step = np.concatenate([np.linspace(200, n - 1, 30).astype(int) for n in lengths])
    columns = {"schedule_index": np.repeat(np.arange(3.0), 30), "steps": step.astype(float)}
    truth = np.array([3.0, 0.2, 400.0, 0.5, 2.0, 0.58, 0.64])
    table = table_of(law, truth, columns)
    found = estimate(law, table, "log_squared")
    assert found.value < 1e-10
    assert found.predict(columns) == pytest.approx(np.log(table.loss), abs=1e-4)


@pytest.mark.parametrize("name", LAWS)
def test_shipped_laws_keep_their_declarations(name):
    """What laws of strangers are held to when they are fitted."""
    law, columns = LAWS[name], design(LAWS[name].columns)
    loss = np.exp(log_predictions(law, truth_of(name)[None], columns)[0])
    check_law(law, columns, loss)
    check_starts(law, columns, starting_points(law, columns, loss, np.ones(len(loss))))


def bounded_constants(**changed):
    known = {
        "E": 1.7,
        "L0": 10.8,
        "a": 40.0,
        "b": 45.0,
        "c": 0.5,
        "alpha": 0.34,
        "beta": 0.28,
        "gamma": 0.7,
        "delta": 0.9,
    }
    return known | changed


def test_the_bounded_law_lies_between_its_floor_and_an_uninformed_guess():
    law, runs = (
        find("bounded"),
        {"n": np.array([1e-3, 1e8, 1e30]), "d": np.full(3, 1e10), "unique_tokens": np.full(3, 1e9)},
    )
    loss = law.value(bounded_constants(), runs)
    assert loss[0] == pytest.approx(10.8, rel=0.05), "no capacity"
    assert loss[2] == pytest.approx(10.8, rel=1e-3), "nothing but over-fitting"
    assert 1.7 < loss[1] < 10.8


def test_the_bounded_law_is_chinchillas_with_much_unique_data_and_far_from_its_bound():
    law, chinchilla, far = find("bounded"), find("chinchilla"), 1e7
    n, d = np.array([1e8, 1e9]), np.array([1e10, 4e10])
    p = bounded_constants(L0=far, a=400.0 / far, b=410.0 / far, c=0.0)
    expected = chinchilla.value({"A": 400.0, "B": 410.0, "E": 1.7, "alpha": 0.34, "beta": 0.28}, {"n": n, "d": d})
    assert law.value(p, {"n": n, "d": d, "unique_tokens": d}) == pytest.approx(expected, rel=1e-5)


def test_more_repeats_of_few_tokens_make_a_large_model_worse():
    """Over-fitting: with 1e8 unique tokens the larger of two models ends above the smaller one."""
    p, value = bounded_constants(), find("bounded").value
    few = value(p, {"n": np.array([1e8, 1e10]), "d": np.full(2, 1e10), "unique_tokens": np.full(2, 1e8)})
    many = value(p, {"n": np.array([1e8, 1e10]), "d": np.full(2, 1e10), "unique_tokens": np.full(2, 1e12)})
    assert few[1] > few[0] and many[1] < many[0]


@pytest.mark.parametrize(
    ("above", "law", "error"),
    tiered(
        [(9.25e20, "data_constrained", 0.0714), (9.25e20, "bounded", 0.046)], [(9.25e20, "data_constrained", 0.0714)]
    ),
)
def test_forecasts_of_repeated_runs(published, above, law, error):
    """Mean error of the law above the cut, fitted to the 195 runs below; as docs/forecasts.md says."""
    table = laws.load(published / "data_constrained_c4.csv", n="params", d="tokens")
    held = table.fit(law, resamples=0, holdout_above=above).report.holdout
    assert held.n == 101 and held.mean_abs_rel_error == pytest.approx(error, abs=0.002)
