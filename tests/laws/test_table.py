"""Reading tables, and refusing bad ones in one line that names the file and the column."""

import numpy as np
import pandas as pd
import pytest

import laws
from laws.base.errors import InputError
from laws.data.table import Exclusion


def frame(**changes) -> pd.DataFrame:
    n, d = np.geomspace(1e7, 1e9, 12), np.geomspace(1e10, 1e11, 12)
    return pd.DataFrame({"params": n, "tokens": d, "flops": 6 * n * d, "loss": np.linspace(3, 2, 12)} | changes)


COLUMNS = {"n": "params", "d": "tokens", "c": "flops"}


@pytest.mark.parametrize("suffix", ["csv", "parquet", "jsonl"])
def test_formats_agree(tmp_path, suffix):
    path = tmp_path / f"runs.{suffix}"
    table = frame()
    {
        "csv": lambda: table.to_csv(path, index=False),
        "parquet": lambda: table.to_parquet(path),
        "jsonl": lambda: table.to_json(path, orient="records", lines=True, double_precision=15),
    }[suffix]()
    read, direct = laws.load(path, **COLUMNS), laws.load(table, **COLUMNS)
    for variable in "ndc":
        assert read.values[variable] == pytest.approx(direct.values[variable], rel=1e-12)
    assert read.sha256
    assert read.six_nd


def test_compute_is_6nd_without_a_column_and_is_said():
    table = laws.load(frame().drop(columns="flops"), n="params", d="tokens")
    assert table.values["c"] == pytest.approx(6 * table.values["n"] * table.values["d"])
    assert table.columns["c"] == "6ND"
    assert any("C = 6 N D" in str(warning) for warning in table.fit("power_c", resamples=0).warnings)


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("loss", np.nan, "not a finite number"),
        ("tokens", -1.0, "negative"),
        ("params", 0.0, "zero"),
        ("loss", np.inf, "not a finite number"),
    ],
)
def test_bad_numbers_name_the_file_column_and_row(tmp_path, column, value, said):
    table = frame()
    table.loc[4, column] = value
    path = tmp_path / "runs.csv"
    table.to_csv(path, index=False)
    with pytest.raises(
        InputError, match=f"runs.csv: column '{column}' is {said} in 1 of 12 rows, first in row 5"
    ) as error:
        laws.load(path, **COLUMNS)
    assert "\n" not in str(error.value)
    assert error.value.exit_code == 2


def test_text_in_a_number_column():
    with pytest.raises(InputError, match=r"column 'loss' is not a finite number .* \(n/a\)"):
        laws.load(frame(loss=["n/a", *np.linspace(3, 2, 11)]), **COLUMNS)


def test_missing_column_names_the_nearest():
    with pytest.raises(InputError, match=r"no column 'parms' for n; did you mean 'params'\?"):
        laws.load(frame(), n="parms", d="tokens")
    with pytest.raises(InputError, match=r"no column 'y' for loss \(columns: .*params.*\)") as refusal:
        laws.load(frame(), **COLUMNS | {"loss": "y"})
    assert refusal.value.flag == "--loss_column=COLUMN"
    with pytest.raises(InputError, match=r"needs a column for n.*did you mean 'params_m'\?") as refusal:
        laws.load(frame().rename(columns={"params": "params_m"}).drop(columns="flops")).fit("chinchilla")
    assert refusal.value.flag == "--n_column=COLUMN"


@pytest.mark.parametrize(
    ("header", "columns"),
    [
        (("params", "tokens", "flops", "loss"), {"n": "params", "d": "tokens", "c": "flops", "loss": "loss"}),
        (("N", "D", None, "L"), {"n": "N", "d": "D", "c": "6ND", "loss": "L"}),
        (
            ("model_size", "datasetSize", "compute_budget", "val/loss"),
            {"n": "model_size", "d": "datasetSize", "c": "6ND"},
        ),
        (("parameters", None, "compute_budget", "final_loss"), {"n": "parameters", "d": "C/6N", "c": "compute_budget"}),
        ((None, "training tokens", "Compute", "eval_loss"), {"n": "C/6D", "d": "training tokens", "c": "Compute"}),
    ],
)
def test_columns_are_told_by_their_usual_names(header, columns):
    table = frame()
    written = pd.DataFrame({name: table.iloc[:, i] for i, name in enumerate(header) if name})
    read = laws.load(written)
    assert columns.items() <= read.columns.items()
    for variable, column in COLUMNS.items():
        assert read.values[variable] == pytest.approx(table[column].to_numpy(), rel=1e-12)
    default = {"tokens", "loss"}
    assert read.guessed == {
        key: name
        for key, name in read.columns.items()
        if name in {*header} - default - {"compute_budget" if columns["c"] == "6ND" else ""}
    }
    assert all(f"--{variable}_column" in read.guesses for variable in read.guessed)


@pytest.mark.parametrize(
    ("changes", "said", "flag"),
    [
        ({"params_non_embedding": 1.0}, "columns 'params' and 'params_non_embedding' could both be n", "--n_column="),
        ({"Compute": 1.0}, "columns 'flops' and 'Compute' could both be c", "--c_column=flops or Compute"),
        (
            {"loss": None, "val_loss": 2.0, "test_loss": 3.0},
            "columns 'val_loss' and 'test_loss' could both",
            "--loss_col",
        ),
    ],
)
def test_two_columns_that_could_be_meant_are_refused(changes, said, flag):
    table = frame(**changes).dropna(axis="columns")
    with pytest.raises(InputError, match=said) as refusal:
        laws.load(table)
    assert refusal.value.flag is not None and refusal.value.flag.startswith(flag)


def test_columns_that_hold_the_same_numbers_are_one_and_named_columns_are_not_guessed():
    table = frame(parameters=frame()["params"], val_loss=1.0)
    assert laws.load(table).columns["n"] == "params"
    assert laws.load(table, n="parameters", d="tokens").guessed == {}
    only_training = frame().rename(columns={"loss": "train_loss"})
    assert laws.load(only_training).columns["loss"] == "train_loss"
    assert laws.load(only_training.assign(val_loss=2.0)).columns["loss"] == "val_loss"


def test_data_that_follow_from_compute_are_checked_for_their_units():
    table = frame().drop(columns="tokens")
    table["params"] /= 1e6
    with pytest.raises(InputError, match="looks like millions or billions of parameters"):
        laws.load(table)


def test_variables_beside_size_and_data():
    table = laws.load(
        frame(unique_tokens=np.full(12, 1e9), mine=np.arange(12) + 1.0), **COLUMNS, columns={"experts": "mine"}
    )
    assert set(table.values) == {"n", "d", "c", "experts"}
    # A column of its default name is read when a law asks for it, with the rows that were kept.
    later = table.take(table.loss < 2.5).need(("n", "unique_tokens"), "a law")
    assert later.values["unique_tokens"].tolist() == [1e9] * len(later)
    assert later.columns == {**table.columns, "unique_tokens": "unique_tokens"}
    with pytest.raises(InputError, match=r"law 'a law' needs a column for granularity") as refusal:
        table.need(("granularity",), "a law")
    assert refusal.value.flag == "--columns=granularity=COLUMN"


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"zz": "loss"}, "no variable is called 'zz'"),
        ({"unique_tokens": "unik"}, "no column 'unik' for unique_tokens; did you mean 'unique'"),
        ({"unique_tokens": "unique"}, "column 'unique' is zero in 1 of 12 rows"),
    ],
)
def test_bad_variables(columns, said):
    with pytest.raises(InputError, match=said):
        laws.load(frame(unique=np.arange(12.0)), **COLUMNS, columns=columns)


def test_only_some_variables_may_be_zero_or_negative():
    area = [*np.linspace(-0.5, 0.5, 11), 0.0]
    assert laws.load(frame(area=area), columns={"annealed_area": "area"}).values["annealed_area"].min() == -0.5
    with pytest.raises(InputError, match="column 'area' is zero"):
        laws.load(frame(area=area), columns={"rate_area": "area"})
    with pytest.raises(InputError, match="column 'area' is not a finite number"):
        laws.load(frame(area=[np.nan, *area[1:]]), columns={"annealed_area": "area"})


def test_standard_errors_of_the_loss():
    table = laws.load(frame(sem=np.full(12, 0.01)), **COLUMNS, loss_stderr="sem", where="params > 2e7")
    assert table.noise is not None and len(table.noise) == len(table) < 12
    assert table.columns["noise"] == "sem"
    with pytest.raises(
        InputError, match="is no standard error of the loss: it exceeds the loss itself in 12 of 12 rows"
    ):
        laws.load(frame(weight=np.full(12, 1 / 0.01**2)), **COLUMNS, loss_stderr="weight")
    with pytest.raises(InputError, match="column 'sem' is zero in 12"):
        laws.load(frame(sem=np.zeros(12)), **COLUMNS, loss_stderr="sem")


def test_copies_are_refused_and_repeated_seeds_are_not():
    twice = pd.concat([frame(), frame().iloc[[3]]])
    with pytest.raises(
        InputError, match=r"1 rows are copies: rows 4, 13 are equal in every column .*keep_copies=True"
    ) as refusal:
        laws.load(twice, **COLUMNS)
    assert refusal.value.flag == "--keep_copies"
    assert len(laws.load(twice, **COLUMNS, keep_copies=True)) == 13
    twice.iloc[-1, twice.columns.get_loc("loss")] *= 1.001
    assert len(laws.load(twice, **COLUMNS)) == 13


def test_where_keeps_rows_and_reports_the_rest():
    table = laws.load(frame(), **COLUMNS, where="params > 2e7 and loss < 2.5")
    assert len(table) == 6
    assert table.excluded == (Exclusion("not (params > 2e7 and loss < 2.5)", 6),)


def test_where_does_not_overflow_integers():
    table = frame(params=[10**9] * 12, tokens=np.arange(1, 13) * 10**10)
    assert len(laws.load(table, n="params", d="tokens", where="6 * params * tokens < 4.5e20")) == 7


@pytest.mark.parametrize("where", ["nonsense > 1", "params >", "params > 1e99"])
def test_bad_where(where):
    with pytest.raises(InputError, match="where"):
        laws.load(frame(), **COLUMNS, where=where)


def test_dropping_the_highest_losses_is_stated():
    table = laws.load(frame(), **COLUMNS, drop_highest=2)
    assert table.loss.max() < 2.9
    assert table.excluded[-1] == Exclusion("the 2 highest losses", 2)


def test_unfinished_runs_are_left_out(sweep):
    broken = sweep.copy()
    broken.loc[3, ["status", "loss"]] = ["diverged", np.nan]
    table = laws.load(broken)
    assert len(table) == len(sweep) - 1
    assert table.excluded == (Exclusion("status is not completed", 1),)


def test_runs_whose_curve_is_flagged_are_left_out_and_brought_back():
    """Of a table of ours alone: a stranger's column of that name, or other words in it, mean nothing here."""
    runs = frame()
    flagged = runs.assign(run_id=[f"r{i}" for i in range(len(runs))], curve_flag=None)
    flagged.loc[flagged.index[[1, 4]], "curve_flag"] = ["risen", "plateau"]
    flagged.loc[flagged.index[2], "curve_flag"] = "checked"
    table = laws.load(flagged, **COLUMNS)
    assert len(table) == len(runs) - 2
    assert [(rule.n, rule.rule.split(" (")[0]) for rule in table.excluded] == [
        (1, "curve_flag is risen"),
        (1, "curve_flag is plateau"),
    ]
    assert (
        len(laws.load(flagged, **COLUMNS, keep_flagged=True))
        == len(laws.load(flagged.drop(columns="run_id"), **COLUMNS))
        == len(runs)
    )


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("none.csv", None, "no such table"),
        ("runs.xlsx", b"", "cannot read '.xlsx'"),
        ("runs.parquet", b"not parquet", "not a readable parquet table"),
        ("runs.csv", b"", "not a readable csv table"),
        ("runs.csv", b"a,b\n", "no rows"),
    ],
)
def test_unreadable_files(tmp_path, name, content, said):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=said):
        laws.load(path)


def test_a_directory_is_not_a_table(tmp_path):
    with pytest.raises(InputError, match="isoflop collect"):
        laws.load(tmp_path)


def _runs(**scale):
    """A few plausible runs, columns scaled."""
    n, d = np.array([1e8, 2e8, 4e8, 8e8]), np.array([4e9, 3e9, 2e9, 1e9])
    frame = pd.DataFrame({"n": n, "d": d, "c": 6.5 * n * d, "loss": [3.0, 2.9, 2.8, 2.85]})
    return frame.assign(**{column: frame[column] * factor for column, factor in scale.items()})


@pytest.mark.parametrize(
    ("scale", "message"),
    [
        ({"d": 1e-9}, r"column 'd' \(4 at most\) looks like millions or billions of tokens"),
        ({"n": 1e-9}, r"column 'n' \(0.8 at most\) looks like millions or billions of parameters"),
        ({"n": 1e-6, "d": 1e-6}, r"column 'd' \(4000 at most\) looks like millions or billions of tokens"),
        ({"c": 1e-18}, r"column 'c' .* times 6 N D: give training FLOPs"),
        ({"c": 1 / 8.64e19}, r"column 'c' .* times 6 N D: give training FLOPs"),
        ({"n": 1e-6}, r"column 'c' .* times 6 N D: give training FLOPs, parameters and tokens"),
    ],
)
def test_units_that_make_no_sense_are_refused_unless_overruled(scale, message):
    with pytest.raises(InputError, match=f"{message}.*check_units=False") as refusal:
        laws.load(_runs(**scale), n="n", d="d", c="c")
    assert refusal.value.flag == "--check_units=false"
    assert len(laws.load(_runs(**scale), n="n", d="d", c="c", check_units=False)) == 4
    assert not laws.load(_runs(), n="n", d="d", c="c").warnings


def test_millions_of_parameters_and_billions_of_tokens_without_compute_are_refused():
    for tokens in ([0.75, 3.0, 280.0], [1.5, 3.0, 280.0], [1.0, 3.0, 280.0]):
        frame = pd.DataFrame({"params_M": [75.0, 400.0, 7000.0], "tokens_B": tokens, "loss": [3.5, 3.0, 2.4]})
        with pytest.raises(InputError, match="check_units=False"):
            laws.load(frame, n="params_M", d="tokens_B")
        assert len(laws.load(frame, n="params_M", d="tokens_B", check_units=False)) == 3


def test_compute_that_is_6nd_settles_the_units():
    """GPT-2, tuned on so few tokens that these alone would be taken for millions."""
    d = np.array([2e4, 1e5, 5e5])
    frame = pd.DataFrame({"n": 124_439_808, "d": d, "c": 6 * 124_439_808 * d, "loss": [3.5, 3.4, 3.3]})
    assert not laws.load(frame, n="n", d="d", c="c").warnings
    tiny = frame.assign(d=d / 1e3, c=6 * 124_439_808 * d / 1e3)
    assert not laws.load(tiny, n="n", d="d", c="c").warnings
    with pytest.raises(InputError, match="looks like millions or billions of tokens"):
        laws.load(tiny, n="n", d="d")


def test_unusual_compute_is_warned_of_and_not_refused():
    """U-Nets: a parameter works at every pixel, so that C is thousands of times 6 N D."""
    n, d = np.geomspace(7.7e6, 6e7, 4), np.geomspace(5e6, 1e7, 4)
    frame = pd.DataFrame({"n": n, "d": d, "c": 8e3 * 6 * n * d, "loss": [0.1, 0.09, 0.08, 0.07]})
    (warning,) = laws.load(frame, n="n", d="d", c="c").warnings
    assert "column 'c' is 8e+03 times 6 N D" in warning


def test_an_export_of_weights_and_biases_is_read(tmp_path):
    frame = _runs().assign(ID=["a", "b", "c", "d"], Name=["x", "x", "y", "z"], State=["finished"] * 3 + ["crashed"])
    frame.to_csv(tmp_path / "wandb_export.csv", index=False)
    table = laws.load(tmp_path / "wandb_export.csv", n="n", d="d", c="c")
    assert list(table.run) == ["a", "b", "c"]
    assert table.excluded == (Exclusion("State is not finished", 1),)


def test_small_models_that_saw_few_images_load():
    """Networks of ten thousand parameters on as many images: their compute says that the units are right."""
    n, d = np.full(4, 58_810.0), np.array([512.0, 8192, 65_536, 512_000])
    frame = pd.DataFrame({"n": n, "d": d, "c": 6 * n * d * 50, "loss": [0.8, 0.6, 0.5, 0.4]})
    assert not laws.load(frame, n="n", d="d", c="c").warnings
    assert len(laws.load(frame.drop(columns="c"), n="n", d="d")) == 4
