"""What a fitted law is used for: models cheap to train and run, and curves that fall onto one."""

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest

import laws
from isoflop import cli
from laws.base.errors import FitFailed, InputError
from laws.data.token_cost import TokenCost
from laws.model.forms import find
from laws.results.report_parts import ModelAverage
from laws.uses.collapse import collapse_curves
from laws.uses.inference_cost import IsoLossCost
from laws.uses.two_stage import predict_downstream

HOFFMANN = {"A": 406.4, "B": 410.7, "E": 1.69, "alpha": 0.336, "beta": 0.283}
KAPLAN = {"Nc": 6.4e13, "Dc": 1.8e13, "alpha_N": 0.076, "alpha_D": 0.103}


def at_optimum(n: float) -> tuple[float, float]:
    """Tokens and loss where this size is compute-optimal."""
    law, p = find("chinchilla"), HOFFMANN
    # alpha A / N^alpha = beta B / D^beta there.
    d = (p["beta"] * p["B"] * n ** p["alpha"] / (p["alpha"] * p["A"])) ** (1 / p["beta"])
    return d, float(law.value(p, {"n": n, "d": d}))


def cheapest(name: str, constants: dict[str, float], loss: float, tokens: float, price: float = 1.0):
    """Parameters and training tokens of the cheapest model, where C = 6 N D and inference costs 2 N a token."""
    law = find(name)
    params = np.array([[constants[key] for key in law.names]])
    return np.exp(IsoLossCost(law, TokenCost(), loss, tokens * price / 3).cheapest(params)[:, 0])


def test_without_inference_it_is_compute_optimal():
    d, loss = at_optimum(7e9)
    n, tokens = cheapest("chinchilla", HOFFMANN, loss, 0.0)
    assert (n, tokens) == pytest.approx((7e9, d), rel=1e-4)
    assert find("chinchilla").optimal_n(HOFFMANN, 6 * n * tokens) == pytest.approx(7e9, rel=1e-4)


def test_a_published_case():
    """Section 3 of the paper: the quality of a 7B model, 1e11 tokens of use: 6B parameters on 1.18 times the data."""
    d, loss = at_optimum(7e9)
    n, tokens = cheapest("chinchilla", HOFFMANN, loss, 1e11)
    assert n == pytest.approx(6e9, rel=1e-3)
    assert tokens / d == pytest.approx(1.18, abs=0.005)


@pytest.mark.parametrize("price", [1.0, 3.0])
def test_the_condition_of_the_optimum(price):
    p, use = HOFFMANN, 1e12
    _, loss = at_optimum(1e9)
    n, d = cheapest("chinchilla", p, loss, use, price)
    size, data = p["alpha"] * p["A"] / n ** p["alpha"], p["beta"] * p["B"] / d ** p["beta"]
    assert size == pytest.approx(data * (1 + price * use / (3 * d)), rel=1e-4)
    assert find("chinchilla").value(p, {"n": n, "d": d}) == pytest.approx(loss, rel=1e-9)


def test_more_inference_means_a_smaller_model():
    sizes = [cheapest("kaplan", KAPLAN, 2.6, use)[0] for use in (0, 1e10, 1e12, 1e14)]
    assert sizes == sorted(sizes, reverse=True) and sizes[-1] < sizes[0] / 1.2


@pytest.fixture(scope="module")
def served():
    """A fit of noisy runs of known constants."""
    n, d = np.repeat(np.geomspace(1e7, 1e10, 6), 6), np.tile(np.geomspace(1e9, 1e12, 6), 6)
    loss = find("chinchilla").value(HOFFMANN, {"n": n, "d": d})
    loss = loss * np.exp(2e-3 * np.random.default_rng(0).standard_normal(len(n)))
    return laws.load(pd.DataFrame({"n": n, "d": d, "loss": loss}), n="n", d="d", loss="loss").fit(resamples=200)


def test_the_cheapest_model_of_a_fit(served):
    _, loss = at_optimum(1e9)
    model = laws.cheapest_model(served, loss, 1e12)
    n, d = cheapest("chinchilla", HOFFMANN, loss, 1e12)
    assert model.n_interval[0] < n < model.n_interval[1] and model.d_interval[0] < d < model.d_interval[1]
    assert model.n_interval[0] < model.n < model.n_interval[1]
    assert served.predict({"n": [model.n], "d": [model.d]})[0] == pytest.approx(loss, rel=1e-9)
    assert model.training_flops == pytest.approx(6 * model.n * model.d)
    assert model.inference_flops == pytest.approx(2 * model.n * 1e12)
    best = laws.cheapest_model(served, loss, 0.0)
    assert (best.n, best.d, best.saving) == pytest.approx(
        (model.compute_optimal_n, model.compute_optimal_d, 0), abs=1e-6
    )
    cost = model.training_flops + model.inference_flops
    assert model.saving == pytest.approx(1 - cost / (2 * best.n * (3 * best.d + 1e12)), rel=1e-6)
    assert 0 < model.saving < 1 and model.n_unreached == 0
    unsure = laws.cheapest_model(served, HOFFMANN["E"] + 0.02, 1e12)
    assert unsure.n_unreached > 0 and f"under {unsure.n_unreached} of" in unsure.warnings[-1]


def test_what_cannot_be_asked_of_a_cheapest_model(served):
    with pytest.raises(FitFailed, match=r"no model reaches a loss of 1\.6"):
        laws.cheapest_model(served, 1.6, 1e11)
    with pytest.raises(InputError, match="inference_tokens must be zero or more, and is -1"):
        laws.cheapest_model(served, 2.2, -1.0)
    with pytest.raises(InputError, match="loss must be positive, and is nan"):
        laws.cheapest_model(served, float("nan"), 1.0)
    c = np.geomspace(1e18, 1e21, 8)
    alone = laws.load(pd.DataFrame({"c": c, "loss": 2 + 1e3 * c**-0.15}), c="c").fit("power_offset_c", resamples=0)
    with pytest.raises(InputError, match="not of the loss by n and d alone"):
        laws.cheapest_model(alone, 2.2, 1.0)


def test_the_cheapest_model_on_the_command_line(served, tmp_path, capsys):
    path = served.save(tmp_path / "fit.json")
    assert cli.main(["predict", str(path), "--loss=2.5", "--inference_tokens=1e12", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    model = laws.cheapest_model(served, 2.5, 1e12)
    assert (told["n"], told["d"], told["saving"]) == pytest.approx((model.n, model.d, model.saving))
    assert cli.main(["predict", str(path), "--loss=2.5", "--inference_tokens=1e12"]) == 0
    text = capsys.readouterr().out
    assert "cheapest model of loss 2.5, used for 1e+12 tokens" in text and "% of that is saved" in text
    for words in (["--loss=2.5", "--n=1e9"], ["--inference_tokens=1e12", "--compute=1e20"], ["--loss=-1"]):
        assert cli.main(["predict", str(path), *words]) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert words[0].split("=")[0].strip("-") in line


def curves_of(sizes=(1e6, 4e6, 16e6), seeds=3, wobble=0.0, noise=0.004):
    """Curves E + a N^-0.3 f(x), each at tokens proportional to its size; the middle size may follow another f."""
    rng, out, size_of = np.random.default_rng(0), {}, {}
    x = np.linspace(0.01, 1, 100)
    for n in sizes:
        for seed in range(seeds):
            bend = 1 + wobble * np.sin(np.pi * x) * (n == sizes[1])
            # A seed makes a whole run better or worse, and leaves little on top of that from step to step.
            above = 60 * n**-0.3 * x**-0.4 * bend * (1 + noise * rng.standard_normal())
            out[f"{n:g}-{seed}"] = (20 * n * x, 1.5 + above)
            size_of[f"{n:g}-{seed}"] = n
    return out, size_of


def test_curves_of_one_recipe_collapse_curves():
    curves, sizes = curves_of()
    found = collapse_curves(curves, 1.5, sizes)
    assert found.curves[:, -1] == pytest.approx(np.ones(9))
    assert found.spread[found.late].max() < 1e-3
    assert found.noise[-1] == pytest.approx(0.004, rel=0.5)
    assert found.holds is True
    assert collapse_curves(curves, 1.5).holds is None


def test_a_size_of_another_recipe_is_named():
    curves, sizes = curves_of(wobble=0.1)
    found = collapse_curves(curves, 1.5, sizes)
    assert found.holds is False
    assert {run.split("-")[0] for run in list(found.apart())[:3]} == {"4e+06"}


def test_a_wrong_floor_spoils_the_collapse_curves():
    curves, sizes = curves_of(sizes=(1e6, 1e8, 1e10))
    assert collapse_curves(curves, 0.8, sizes).holds is False


def test_curves_that_cannot_collapse():
    curves, _ = curves_of()
    with pytest.raises(InputError, match="2 learning curves are too few"):
        collapse_curves(dict(list(curves.items())[:2]), 1.5)
    with pytest.raises(InputError, match="ends at or below the irreducible loss"):
        collapse_curves(curves, 3.0)


def ladder_of(directory, wobble: float = 0.0):
    """The tables of ``curves_of``, as ``isoflop collect`` writes them, with noise of single batches in the curves."""
    curves, sizes = curves_of(sizes=tuple(4.0**k for k in range(9, 15)), wobble=wobble)
    rng = np.random.default_rng(1)
    runs = [{"run_id": run, "n": sizes[run], "d": 20 * sizes[run], "loss": curves[run][1][-1]} for run in curves]
    points = [
        pd.DataFrame({"run_id": run, "tokens": tokens, "loss": loss * np.exp(1e-3 * rng.standard_normal(len(loss)))})
        for run, (tokens, loss) in curves.items()
    ]
    pd.DataFrame(runs).to_parquet(directory / "runs.parquet")
    pd.concat(points).to_parquet(directory / "curves.parquet")
    return directory / "runs.parquet"


def test_collapse_on_the_command_line(tmp_path, capsys):
    words = ["--law=power_offset_n", "--n_column=n", "--d_column=d", "--resamples=0", "--collapse"]
    found = {}
    for wobble in (0.0, 0.2):
        table = ladder_of(tmp_path, wobble)
        assert cli.main(["fit", str(table), *words, f"--out={tmp_path / 'fit.json'}", "--json"]) == 0
        found[wobble] = json.loads(capsys.readouterr().out)["collapse"]
    assert found[0.0]["spread"] < 0.02 < found[0.2]["spread"]
    assert found[0.2]["holds"] is False
    assert {run.split("-")[0] for run in list(found[0.2]["apart"])[:3]} == {"1.04858e+06"}
    assert cli.main(["fit", str(table), *words, f"--out={tmp_path / 'fit.json'}"]) == 0
    assert "they do not collapse" in capsys.readouterr().out
    (tmp_path / "curves.parquet").unlink()
    assert cli.main(["fit", str(table), *words]) == 2
    assert "--collapse compares learning curves" in capsys.readouterr().err


def test_a_collapse_needs_an_irreducible_loss_and_curves(tmp_path):
    runs = laws.load(ladder_of(tmp_path), n="n", d="d")
    curves = laws.load_curves(tmp_path / "curves.parquet")
    with pytest.raises(InputError, match="law 'power_n' has no irreducible loss"):
        laws.collapse(runs.fit("power_n", resamples=0), curves)
    fit = runs.fit("power_offset_n", resamples=0)
    with pytest.raises(InputError, match="2 of 18 runs have a learning curve"):
        laws.collapse(fit, {run: curves[run] for run in list(curves)[:2]})


@pytest.fixture(scope="module")
def ladder():
    """Runs whose task loss follows size and data, and whose accuracy follows the task loss."""
    rng = np.random.default_rng(0)
    n, d = 10 ** rng.uniform(7, 9.5, 28), 10 ** rng.uniform(9, 11, 28)
    law = find("chinchilla")
    loss = law.value({"A": 40.0, "B": 60.0, "E": 0.4, "alpha": 0.25, "beta": 0.24}, {"n": n, "d": d})
    accuracy = 0.25 + 0.7 / (1 + np.exp(4 * (loss - 0.9)))
    noise = np.exp(0.003 * rng.standard_normal((2, 28)))
    frame = pd.DataFrame({"n": n, "d": d, "bits": loss * noise[0], "accuracy": accuracy * noise[1]})
    first = laws.load(frame, n="n", d="d", loss="bits").fit("chinchilla", resamples=100)
    second = laws.load(frame, loss="accuracy", columns={"upstream_loss": "bits"}).fit("task_accuracy", resamples=100)
    return first, second


def test_accuracy_follows_from_loss(ladder):
    first, second = ladder
    at = {"n": 5e9, "d": 3e11}
    loss = find("chinchilla").value({"A": 40.0, "B": 60.0, "E": 0.4, "alpha": 0.25, "beta": 0.24}, at)
    accuracy = 0.25 + 0.7 / (1 + np.exp(4 * (loss - 0.9)))
    upstream, downstream = predict_downstream(first, second, **at)
    assert upstream == first.forecast(**at)
    assert downstream.inputs == at | {"upstream_loss": upstream.value}
    assert downstream.observable == "accuracy"
    assert downstream.value == pytest.approx(accuracy, rel=0.02)
    assert downstream.interval[0] < accuracy < downstream.interval[1]
    # Both fits' uncertainty is in it: the second's own at that loss, and the first's, here made larger.
    alone = np.ptp(second.forecast(upstream_loss=upstream.value).interval)
    assert np.ptp(downstream.interval) > 0.9 * alone
    growing = ModelAverage(extrapolation_inflation=0.2, forms=())
    unsure = dataclasses.replace(first, report=dataclasses.replace(first.report, model_average=growing))
    assert np.ptp(predict_downstream(unsure, second, **at)[1].interval) > 2 * alone
    assert set(downstream.extrapolation) == {"n", "d", "c", "upstream_loss"}
    with pytest.raises(InputError, match="reads n, d, not the upstream loss alone"):
        predict_downstream(first, first, **at)


def test_chained_on_the_command_line(ladder, tmp_path, capsys):
    paths = [str(fit.save(tmp_path / f"{i}.json")) for i, fit in enumerate(ladder)]
    assert cli.main(["predict", paths[0], "--compute=1e22", f"--downstream_fit={paths[1]}", "--json"]) == 0
    inputs = json.loads(capsys.readouterr().out)["inputs"]
    assert inputs["upstream_loss"] == pytest.approx(ladder[0].forecast(compute=1e22).value)
    assert 6 * inputs["n"] * inputs["d"] == pytest.approx(1e22, rel=1e-6)
    assert cli.main(["predict", paths[0], "--n=1e9", "--d=1e10", f"--downstream_fit={paths[1]}"]) == 0
    first, second, *_ = capsys.readouterr().out.splitlines()
    assert first.startswith("upstream bits ") and second.startswith("accuracy ")
    assert cli.main(["predict", paths[0], "--compute=1e22", f"--downstream_fit={paths[1]}", "--freeze=x.json"]) == 2
