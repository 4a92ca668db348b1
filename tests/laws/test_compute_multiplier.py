"""The compute multiplier: known truths, laws with floors, conventions, and the command."""

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest

import laws
from isoflop import cli
from laws.base.errors import InputError
from laws.uses.compute_multiplier import compare
from laws.uses.pairing import PairedBy, paired_draws, paired_runs, pairing_of, score_correlation

TARGET = 1e12

FORECAST = 5e-3  # forecasts are medians of draws, which differ between two fits by their Monte-Carlo error


@pytest.fixture(scope="module")
def fits(tmp_path_factory, below):
    """A sweep, and one in which every run needs half the compute: each loss is that of twice the tokens."""
    folder, frame = tmp_path_factory.mktemp("fits"), below
    faster = frame.assign(**{name: frame[name] / 2 for name in ("tokens", "flops_exact", "flops_6nd")})
    tables = {"a": frame, "b": faster}
    fits_by_name = {
        name: laws.load(table).fit("chinchilla", resamples=64, target=TARGET) for name, table in tables.items()
    }
    for name, fitted in fits_by_name.items():
        fitted.save(folder / f"{name}.json")
    return folder, fits_by_name


def test_half_the_compute_is_a_multiplier_of_two_that_stays(fits):
    _, fits_by_name = fits
    comparison = compare(fits_by_name["a"], fits_by_name["b"], np.array([2e11, 1e12]))
    for point in comparison.points:
        assert point.multiplier == pytest.approx(2, rel=FORECAST)
        assert point.interval[0] < 2 < point.interval[1] and point.share_above_one > 0.9
    assert comparison.slope.value == pytest.approx(0, abs=2e-3)
    back = compare(fits_by_name["b"], fits_by_name["a"], np.array([1e11, 5e11]))
    assert [point.multiplier for point in back.points] == pytest.approx([0.5, 0.5], rel=FORECAST)


def test_a_law_with_itself_is_even(fits):
    _, fits_by_name = fits
    comparison = compare(fits_by_name["a"], fits_by_name["a"])
    assert [point.multiplier for point in comparison.points] == pytest.approx([1] * 9, rel=2e-3)
    assert "C by a factor 10" in comparison.warnings[0]


def with_higher_floor(fitted, by):
    """The same fit with a floor that is higher, under every form."""

    def raised(of):
        samples = {"E": tuple(value + by for value in of.samples["E"])} if of.samples else {}
        return dataclasses.replace(of, params=of.params | {"E": of.params["E"] + by}, samples=of.samples | samples)

    average = fitted.report.model_average
    average = dataclasses.replace(average, forms=tuple(map(raised, average.forms)))
    return dataclasses.replace(fitted, report=raised(dataclasses.replace(fitted.report, model_average=average)))


def test_a_floor_above_the_loss_has_no_multiplier_and_says_why(fits):
    _, fits_by_name = fits
    worse = with_higher_floor(fits_by_name["a"], 0.4)
    high = fits_by_name["a"].forecast(compute=1e18).value
    assert high < worse.params["E"]
    (point,) = compare(fits_by_name["a"], worse, np.array([1e18])).points
    assert point.multiplier is None and point.interval is None and point.share_above_one is None
    assert "B does not reach it" in point.reason


def test_a_comparison_is_a_table_a_line_and_json(fits):
    _, fits_by_name = fits
    comparison = compare(fits_by_name["a"], with_higher_floor(fits_by_name["a"], 0.4), [1e11, 1e18])
    frame = comparison.frame()
    assert list(frame.columns) == ["c", "loss", "multiplier", "low", "high", "share_above_one", "reason"]
    assert frame.c.tolist() == [1e11, 1e18] and np.isnan(frame.multiplier[1]) and np.isnan(frame.low[1])
    assert 0 < frame.multiplier[0] < 1 and frame.low[0] < frame.multiplier[0] < frame.high[0]
    assert comparison.slope is None, "one multiplier has no exponent"
    payload = json.loads(json.dumps(comparison.to_dict(), allow_nan=False))
    assert payload["points"][1]["multiplier"] is None and payload["points"][0]["interval"] == [
        frame.low[0],
        frame.high[0],
    ]
    assert repr(comparison).count("\n") == 0 and "none at 1e+18 FLOPs" in repr(comparison)


def test_other_conventions_of_compute_are_refused(fits, below):
    _, fits_by_name = fits
    other = laws.load(below, c="flops_6nd").fit("chinchilla", resamples=0)
    with pytest.raises(InputError, match=r"count compute differently \(flops_exact and flops_6nd\)"):
        compare(fits_by_name["a"], other)


def test_the_command_prints_writes_and_draws(fits, capsys):
    folder, fits_by_name = fits
    argv = ["compare", folder / "a.json", folder / "b.json", "--compute=1e12", f"--out={folder / 'm.json'}"]
    assert cli.main([*map(str, argv), f"--plot={folder / 'm.svg'}"]) == 0
    assert "the advantage of B neither grows nor shrinks" not in capsys.readouterr().out  # one point has no trend
    written = json.loads((folder / "m.json").read_text())
    assert written == written | compare(*fits_by_name.values(), np.array([1e12])).to_dict()
    assert written["points"][0]["multiplier"] == pytest.approx(2, rel=FORECAST)
    assert (folder / "m.svg").read_text().lstrip().startswith("<?xml")
    assert cli.main([*map(str, argv[:3]), "--compute=1e12x"]) == 2
    assert "--compute" in capsys.readouterr().err


def quantity_fit(below, columns, resamples):
    """The fit of a table that says what its losses are of."""
    values = {name: np.resize(value, len(below)) for name, value in columns.items() if name != "loss"}
    frame = below.assign(**values)
    frame["bits_per_byte"] = frame.loss / np.log(2)
    return laws.load(frame, loss=columns.get("loss")).fit("chinchilla", resamples=resamples)


@pytest.mark.parametrize(
    ("ours", "theirs", "message"),
    [
        ({}, {"loss": "bits_per_byte"}, "loss is 'loss' and 'bits_per_byte'"),
        ({"eval_set": "c4"}, {"eval_set": "pile"}, "eval_set is 'c4' and 'pile'"),
        ({"tokenizer_hash": "a1"}, {"tokenizer_hash": "b2"}, "tokenizer_hash is 'a1' and 'b2'"),
        ({"tokenizer": "gpt2"}, {"tokenizer": "llama"}, "tokenizer is 'gpt2' and 'llama'"),
        ({"eval_set": "c4"}, {"eval_set": ["c4", "pile"]}, "eval_set is 'c4' and 'c4 and pile'"),
        ({}, {"loss": "bits_per_byte", "eval_set": "c4"}, "loss is 'loss' and 'bits_per_byte'"),
    ],
)
def test_fits_of_different_quantities_are_refused(below, ours, theirs, message):
    """Losses in nats and in bits per byte, of two evaluation sets or two tokenizers, have no multiplier."""
    with pytest.raises(InputError, match=message):
        compare(quantity_fit(below, ours, resamples=0), quantity_fit(below, theirs, resamples=0))


def test_quantities_are_compared_where_that_is_asked_for_and_where_one_table_names_none(fits, below):
    ours = {"eval_set": "c4", "tokenizer": "gpt2", "tokenizer_hash": "a1"}
    theirs = {"eval_set": "pile", "tokenizer": "llama", "tokenizer_hash": "b2", "loss": "bits_per_byte"}
    fitted, other = quantity_fit(below, ours, resamples=16), quantity_fit(below, theirs, resamples=16)
    assert len(compare(fitted, other, check_quantity=False).points) == 9
    assert compare(fitted, fits[1]["a"]).points, "what only one table says is not compared"


MINE = """
import laws

MINE = laws.Law(
    name="mine",
    formula="L = E + A / N^alpha + B / D^beta",
    source="a test",
    columns=("n", "d"),
    params=(
        laws.Param("A", "weight of N"),
        laws.Param("B", "weight of D"),
        laws.Param("E", "floor"),
        laws.Param("alpha", "exponent of N", 0.01, 2.0, starts=(0.3, 0.5)),
        laws.Param("beta", "exponent of D", 0.01, 2.0, starts=(0.3, 0.5)),
    ),
    value=lambda p, x: p["E"] + p["A"] * x["n"] ** -p["alpha"] + p["B"] * x["d"] ** -p["beta"],
    linear=("A", "B", "E"),
)
"""


def test_the_command_compares_a_law_of_ones_own(fits, below, capsys, tmp_path):
    folder, _ = fits
    (tmp_path / "mylaw.py").write_text(MINE)
    declaration = f"{tmp_path / 'mylaw.py'}:MINE"
    laws.load(below).fit(declaration, resamples=32, target=TARGET).save(tmp_path / "mine.json")
    argv = ["compare", str(folder / "a.json"), str(tmp_path / "mine.json"), "--compute=1e12"]
    assert cli.main([*argv, "--json", f"--law={declaration}"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["law_a"], report["law_b"]) == ("chinchilla", "mine")
    # The same runs; the other forecasts are those of surfaces.
    assert report["points"][0]["multiplier"] == pytest.approx(1, rel=0.02)
    both = ["compare", str(tmp_path / "mine.json"), str(tmp_path / "mine.json"), "--compute=1e12"]
    assert cli.main([*both, f"--law={declaration}"]) == 0
    capsys.readouterr()
    assert cli.main(argv) == 2
    assert f"give it as law (--law={declaration})" in capsys.readouterr().err
    assert cli.main(["compare", *[str(folder / f"{name}.json") for name in "ab"], f"--law={declaration}"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert f"--law: neither fit is of law '{declaration}' (chinchilla and chinchilla)" in line


def paired_tables(rho, seed=0, noise=0.004, names=True):
    """Runs of A and of B at the same sizes and data; B's loss is that of twice the tokens, and errors correlate by rho."""
    n, d = np.repeat(np.geomspace(1e7, 1e9, 5), 4), np.tile(np.geomspace(1e9, 1e11, 4), 5)
    first, own = np.random.default_rng(seed).standard_normal((2, len(n)))
    errors = first, rho * first + np.sqrt(1 - rho**2) * own
    return [
        pd.DataFrame({"n": n, "d": d, "c": 6 * n * d, "seed": np.arange(len(n)) % 3})
        .assign(loss=(1.7 + 400 / n**0.34 + 410 / (factor * d) ** 0.28) * np.exp(noise * error))
        .assign(place=[f"place {i}" for i in range(len(n))])
        for factor, error in zip((1, 2), errors, strict=True)
    ]


def fit_pair(tables, resamples=100, **columns):
    return [laws.load(table, n="n", d="d", c="c", **columns).fit(resamples=resamples) for table in tables]


@pytest.fixture(scope="module")
def correlated():
    return fit_pair(paired_tables(0.95))


def widths(comparison):
    return np.array([np.log(point.interval[1] / point.interval[0]) for point in comparison.points])


def test_paired_runs_narrow_the_interval_and_are_told(correlated):
    compute = np.array([1e19, 1e21])
    paired, independent = (compare(*correlated, compute, paired=which) for which in (None, False))
    assert paired.pairing.by == PairedBy.POINT_AND_SEED and paired.pairing.n_pairs == 20 and paired.pairing.used
    assert paired.pairing.interval[0] < 0.95 < paired.pairing.interval[1]
    assert independent.pairing is None
    assert (widths(paired) < 0.75 * widths(independent)).all()
    for comparison in (paired, independent):
        assert all(point.interval[0] < 2 < point.interval[1] for point in comparison.points)
    assert [p.multiplier for p in paired.points] == [p.multiplier for p in independent.points]


def test_each_fit_keeps_its_own_draws(correlated):
    runs = paired_runs(*correlated)
    first, second = paired_draws(*correlated, runs, pairing_of(*correlated, runs))
    assert sorted(first) == list(range(len(first))), "every draw of A once"
    share = np.bincount(second, minlength=len(first))
    assert share.mean() == 1 and len(np.unique(second)) > 0.4 * len(first)
    low, high = np.quantile(second, [0.25, 0.75]) / len(first)
    assert low == pytest.approx(0.25, abs=0.06) and high == pytest.approx(0.75, abs=0.06)


def test_independent_errors_are_not_paired():
    comparison = compare(*fit_pair(paired_tables(0.0, seed=1)), np.array([1e19]))
    assert comparison.pairing.n_pairs == 20 and not comparison.pairing.used
    assert "draws are independent" in str(comparison.pairing)


def test_what_pairs_runs(correlated):
    tables = paired_tables(0.95)
    by_name = fit_pair(tables, resamples=0, run="place")
    assert paired_runs(*by_name).by == PairedBy.RUN
    no_seed = [laws.load(t.drop(columns="seed"), n="n", d="d", c="c").fit(resamples=0) for t in tables]
    assert paired_runs(*no_seed).by == PairedBy.POINT
    other_seeds = [t.assign(seed=t.seed + k) for k, t in enumerate((tables[0], tables[1].assign(seed=5)))]
    assert paired_runs(*(laws.load(t, n="n", d="d", c="c").fit(resamples=0) for t in other_seeds)).by == PairedBy.POINT
    elsewhere = tables[1].assign(d=tables[1].d * 1.3, c=tables[1].c * 1.3)
    (apart,) = fit_pair([elsewhere])
    with pytest.raises(InputError, match="no run of A is paired with one of B"):
        compare(correlated[0], apart, np.array([1e19]), paired=True)
    assert compare(correlated[0], apart, np.array([1e19])).pairing is None


def test_scores_correlate_less_than_errors(correlated):
    """Of medians (2 / pi) arcsin(rho); log_huber's threshold is a fourth of the noise here."""
    law_of_c = [
        laws.load(table, c="c").fit("power_offset_c", resamples=50, objective=objective)
        for table, objective in zip(paired_tables(0.9, noise=0.05), ("log_huber", "log_squared"), strict=True)
    ]
    huber, squared = law_of_c
    assert score_correlation(squared, squared, 0.9) == pytest.approx(0.9, abs=0.01)
    assert score_correlation(huber, huber, 0.9) == pytest.approx(2 / np.pi * np.arcsin(0.9), abs=0.02)


def test_the_command_tells_of_pairs(correlated, tmp_path, capsys):
    paths = [str(fit.save(tmp_path / f"{name}.json")) for fit, name in zip(correlated, "ab", strict=True)]
    assert cli.main(["compare", *paths, "--compute=1e19"]) == 0
    assert "20 runs are paired by equal N, D and seed" in " ".join(capsys.readouterr().out.split())
    assert cli.main(["compare", *paths, "--compute=1e19", "--paired=false"]) == 0
    assert "paired" not in capsys.readouterr().out
