"""The compute multiplier: known truths, laws with floors, conventions, and the command."""

import dataclasses
import json

import numpy as np
import pytest

import laws
from isoflop import cli
from laws.base.errors import InputError
from laws.uses.compute_multiplier import compare

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
    fits = []
    for columns in (ours, theirs):
        values = {name: np.resize(value, len(below)) for name, value in columns.items() if name != "loss"}
        frame = below.assign(**values)
        frame["bits_per_byte"] = frame.loss / np.log(2)
        fits.append(laws.load(frame, loss=columns.get("loss")).fit("chinchilla", resamples=16))
    with pytest.raises(InputError, match=message):
        compare(*fits)
    assert len(compare(*fits, check_quantity=False).points) == 9
    same = laws.load(below.assign(eval_set="c4", tokenizer_hash="a1")).fit("chinchilla", resamples=16)
    plain = laws.load(below).fit("chinchilla", resamples=16)
    assert compare(same, plain).points, "what only one table says is not compared"


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
