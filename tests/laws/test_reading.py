"""Readers do not guess: a table reads the same from every format, to the last digit and every id."""

import csv
import datetime
import json
import sys

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings, strategies as st
from pyarrow import parquet

import laws
from laws.base.errors import InputError, NotPreregistered
from laws.data.reading import read
from laws.uses.preregistration import freeze
from laws.uses.scoring import score

FORMATS = ("csv", "tsv", "jsonl", "parquet")


def write(path, columns: dict[str, list]) -> None:
    """A table written by the plainest writer of its format: no pandas, which rounds and renames."""
    shown = lambda value: value.isoformat() if isinstance(value, datetime.datetime) else value
    rows = [dict(zip(columns, map(shown, row), strict=True)) for row in zip(*columns.values(), strict=True)]
    if path.suffix == ".parquet":
        parquet.write_table(pa.table({name: _array(values) for name, values in columns.items()}), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",", quoting=csv.QUOTE_MINIMAL)
            writer.writerow(columns)
            writer.writerows([["" if value is None else value for value in row.values()] for row in rows])


def _array(values: list) -> pa.Array:
    """As Parquet can hold it: integers beyond 64 bits as floats."""
    if any(isinstance(value, int) and abs(value) >= 2**63 for value in values):
        values = [None if value is None else float(value) for value in values]
    return pa.array(values)


def read_all(folder, columns: dict[str, list]) -> list[pd.DataFrame]:
    frames = []
    for suffix in FORMATS:
        write(folder / f"table.{suffix}", columns)
        frames.append(read(folder / f"table.{suffix}")[0])
    return frames


texts = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), max_size=6) | st.sampled_from(
    ["0012", "12", "1e5", "NaN", "None", "true", "False", "", "2026-11-30", "2026-11-30T08:39:00", "a,b", 'a"b', " x "]
)
times = st.datetimes(datetime.datetime(1990, 1, 1), datetime.datetime(2200, 1, 1))
kinds = [
    texts,
    st.floats(),
    st.integers(-(10**25), 10**25),
    st.integers(-5, 5),
    st.booleans(),
    times,
    times.map(lambda time: time.replace(tzinfo=datetime.UTC)),
]


@st.composite
def tables(draw) -> dict[str, list]:
    rows = draw(st.integers(1, 6))
    columns = {"run_id": draw(st.lists(texts.filter(str.strip), min_size=rows, max_size=rows))}
    for i, kind in enumerate(draw(st.lists(st.sampled_from(kinds), min_size=1, max_size=4))):
        values = kind | st.none() if draw(st.booleans()) else kind
        columns[f"column {i}"] = draw(st.lists(values, min_size=rows, max_size=rows))
    return columns


@settings(max_examples=80, deadline=None)
@given(columns=tables())
def test_every_format_gives_the_same_frame(tmp_path_factory, columns):
    frames = read_all(tmp_path_factory.mktemp("formats"), columns)
    for frame in frames[1:]:
        pd.testing.assert_frame_equal(frame, frames[0], check_exact=True)
    assert frames[0]["run_id"].tolist() == columns["run_id"], "identities are as they were written"


def test_a_column_of_markers_of_what_is_missing_holds_nothing(tmp_path):
    for frame in read_all(tmp_path, {"run_id": ["a", "b"], "note": [float("nan"), None]}):
        assert frame["note"].dtype == np.float64 and frame["note"].isna().all()


def test_values_are_as_they_were_written(tmp_path):
    """Numbers to the last digit, whole numbers of any size, ids as text, times as unix seconds, and what is missing."""
    tenth = 0.1 + 0.2
    columns = {
        "run_id": ["0012", "12", "1e5"],
        "loss": [tenth, 2.0, None],
        "flops_exact": [120_000_000_000_000_000_000, 10**17, 3],
        "stream_seed": [2**62 + 1, 2**62 + 2, 0],
        "ended_at": [
            datetime.datetime(2026, 11, 30, 8, 39, tzinfo=datetime.UTC),
            None,
            datetime.datetime(1970, 1, 1, 0, 1),
        ],
        "tuned": [True, False, True],
        "shared": [True, None, False],
    }
    columns["ended_at"][2] = columns["ended_at"][2].replace(tzinfo=datetime.UTC)
    for frame in read_all(tmp_path, columns):
        assert frame["run_id"].tolist() == ["0012", "12", "1e5"]
        assert frame["loss"][0] == tenth and np.isnan(frame["loss"][2])
        assert frame["flops_exact"].tolist() == [1.2e20, 1e17, 3.0]
        assert frame["stream_seed"].tolist() == [2**62 + 1, 2**62 + 2, 0]
        assert frame["ended_at"][0] == 1796027940.0 and np.isnan(frame["ended_at"][1]) and frame["ended_at"][2] == 60.0
        assert frame["tuned"].tolist() == [True, False, True]
        assert frame["shared"].tolist()[::2] == [1.0, 0.0] and np.isnan(frame["shared"][1])


@pytest.mark.parametrize("ids", [["7", "0012", "12"], ["7", "8", "12"]])
def test_run_ids_are_text_and_join_their_curves(tmp_path, ids):
    runs = {"who": ids, "params_total": [1e7, 2e7, 4e7], "tokens": [1e9] * 3, "loss": [3.0, 2.9, 2.8]}
    for suffix in FORMATS:
        write(tmp_path / f"runs.{suffix}", runs)
        write(tmp_path / f"curves.{suffix}", {"run_id": ids, "tokens": [1e9] * 3, "loss": [3.0, 2.9, 2.8]})
        table = laws.load(tmp_path / f"runs.{suffix}", run="who")
        assert list(table.run) == ids
        assert set(laws.load_curves(tmp_path / f"curves.{suffix}")) == set(ids)


def test_whole_ids_of_any_type_are_written_without_a_point(tmp_path):
    """A column of ids that lost one value is a column of floats elsewhere: 12, not 12.0."""
    runs = pd.DataFrame({"params_total": [1e7, 2e7], "tokens": [1e9] * 2, "loss": [3.0, 2.9], "run_id": [7, 12]})
    for ids in ([7, 12], [7.0, 12.0], ["7", "12"]):
        assert list(laws.load(runs.assign(run_id=ids)).run) == ["7", "12"]


def test_a_big_integer_is_a_float(tmp_path):
    path = tmp_path / "big.jsonl"
    path.write_text(
        '{"params_total": 1000000000, "tokens": 20000000000, "flops_exact": 120000000000000000000, "loss": 2.9}\n'
    )
    assert laws.load(path).values["c"].tolist() == [1.2e20]


@pytest.fixture(scope="module")
def demo():
    return pd.read_parquet("notebooks/data/demo/runs.parquet")


def test_fits_and_scores_are_the_same_from_every_format(demo, tmp_path):
    """The fit below 1e12, frozen, and scored against the whole table: none is preregistered, whatever the format."""
    columns = {name: [None if value != value else value for value in demo[name].tolist()] for name in demo.columns}
    frames = read_all(tmp_path, columns)
    fits, frozen = {}, tmp_path / "prediction.json"
    for suffix, frame in zip(FORMATS, frames, strict=True):
        pd.testing.assert_frame_equal(frame, frames[0], check_exact=True)
        fits[suffix] = laws.load(tmp_path / f"table.{suffix}", where="budget < 1e12").fit("chinchilla", resamples=0)
        assert dict(fits[suffix].params) == dict(fits["csv"].params)
    freeze(fits["csv"], frozen, compute=1e12)
    answers = []
    for suffix in FORMATS:
        with pytest.raises(NotPreregistered, match="not preregistered") as error:
            score(frozen, tmp_path / f"table.{suffix}")
        answers.append(str(error.value).replace(suffix, ""))
    assert len(set(answers)) == 1


@pytest.mark.parametrize("ended_at", [1.8e18, 1.8e15, 1.8e12])
def test_a_time_in_another_unit_is_unknown(demo, ended_at):
    table = laws.load(demo.assign(ended_at=ended_at))
    assert np.isnan(table.ended_at).all()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"", "a.csv: not a readable csv table"),
        ("a.csv", b"loss,tokens\n", "a.csv: the table has no rows"),
        ("a.jsonl", b"\n", "a.jsonl: the table has no rows"),
        ("a.csv", b"loss,tokens\n1,2,3\n", "a.csv: not a readable csv table .*Expected 2 columns, got 3"),
        ("a.csv", b"loss,loss\n1,2\n", "a.csv: two columns are called 'loss'"),
        ("a.csv", b"loss, loss\n1,2\n", "a.csv: two columns are called 'loss'"),
        ("a.csv", b"loss,name\n1,caf\xe9\n", r"a.csv: not UTF-8 text \(byte 15\)"),
        ("a.jsonl", b'{"loss": "\xff"}\n', r"a.jsonl: not UTF-8 text \(byte 10\)"),
        ("a.jsonl", b'{"loss": 1}\n{"loss": 2\n', "a.jsonl: line 2 is not a JSON object"),
        ("a.jsonl", b'[{"loss": 1}]\n', "a.jsonl: line 1 is not a JSON object"),
        ("a.jsonl", b'{"loss": 1, "loss": 2}\n', "line 1 is not a JSON object .*two keys are called 'loss'"),
        ("a.jsonl", b"[" * 100_000 + b"\n", "line 1 is not a JSON object"),
        ("a.jsonl", b'{"loss": ' + b"9" * 5000 + b"}\n", "line 1 is not a JSON object"),
        ("a.parquet", b"PAR1", "a.parquet: not a readable parquet table"),
        ("a.xlsx", b"", "cannot read '.xlsx'"),
    ],
)
def test_what_is_no_table_is_one_line(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        laws.load(path)
    assert "\n" not in str(error.value) and error.value.exit_code == 2


def test_numbers_beyond_float_are_named(tmp_path):
    path = tmp_path / "a.jsonl"
    row = {"params_total": 10**8, "tokens": 10**9, "loss": 3.0}
    for value in (f"1{'0' * 400}", "1e999", "-1e999"):
        path.write_text(
            json.dumps(row) + "\n" + json.dumps(row | {"loss": 0}).replace('"loss": 0', f'"loss": {value}') + "\n"
        )
        with pytest.raises(
            InputError, match=r"a.jsonl: column 'loss' is not a finite number in 1 of 2 rows, first in row 2"
        ):
            laws.load(path)


def test_mixed_types_are_text_and_named_where_a_number_is_needed(tmp_path):
    path = tmp_path / "a.jsonl"
    row = {"params_total": 10**8, "tokens": 10**9, "loss": 3.0}
    path.write_text("\n".join(json.dumps(row | {"loss": loss}) for loss in (3.0, "NA-ish", {"eval": 3.0}, True)))
    with pytest.raises(
        InputError, match=r"column 'loss' is not a finite number in 3 of 4 rows, first in row 2 \(NA-ish\)"
    ):
        laws.load(path)


def test_nothing_in_a_table_is_executed(tmp_path):
    """Pickled objects in Parquet are bytes and nothing else; text that looks like code is text."""
    path = tmp_path / "a.parquet"
    payload = b"cbuiltins\neval\n(S'__import__(\"sys\").modules.update(executed=1)'\ntR."
    table = pa.table({"params_total": [1e8], "tokens": [1e9], "loss": [3.0], "object": pa.array([payload])})
    parquet.write_table(table.replace_schema_metadata({"pandas": "__import__('os')"}), path)
    laws.load(path)
    assert "executed" not in sys.modules


def test_a_column_named_like_a_variable_is_a_column():
    frame = pd.DataFrame({"n": [1e8, 2e8], "d": [1e9] * 2, "c": ["x", "y"], "loss": [3.0, 2.9], "experts": ["a", "b"]})
    table = laws.load(frame, n="n", d="d")
    assert table.columns["c"] == "6ND" and set(table.values) == {"n", "d", "c"}
    with pytest.raises(InputError, match="column 'experts' is not a finite number"):
        table.need(("experts",), "routed")


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pd.Series([True, None, False], dtype="boolean"), [1.0, np.nan, 0.0]),
        (pd.Series([1.5, None, 2.5], dtype="Float64"), [1.5, np.nan, 2.5]),
        (pd.Series([pd.NA, "a", ""], dtype="object"), [np.nan, "a", np.nan]),
        (pd.Series([np.array([1, 2]), None, np.array([])], dtype="object"), ["[1, 2]", np.nan, "[]"]),
        (pd.Series([[1, 2], None, []], dtype=pd.ArrowDtype(pa.list_(pa.int64()))), ["[1, 2]", np.nan, "[]"]),
        (pd.Series(np.array(["9999-01-01", "NaT", "1969-12-31T23:59:59"], "M8[s]")), [253370764800.0, np.nan, -1.0]),
    ],
)
def test_missing_nested_and_far_values_of_a_frame(column, expected):
    values = read(pd.DataFrame({"x": column}))[0].x
    pd.testing.assert_series_equal(values.astype(object).fillna(np.nan), pd.Series(expected, name="x", dtype=object))


def test_lists_in_parquet_read_as_those_in_json_lines(tmp_path):
    lists = [[1, 2], [3], None, []]
    parquet.write_table(pa.table({"x": lists}), tmp_path / "table.parquet")
    (tmp_path / "table.jsonl").write_text("".join(json.dumps({"x": value}) + "\n" for value in lists))
    pd.testing.assert_frame_equal(read(tmp_path / "table.parquet")[0], read(tmp_path / "table.jsonl")[0])


def test_an_index_with_a_name_is_a_column(tmp_path):
    frame = pd.DataFrame({"run_id": ["0012", "12"], "loss": [3.0, 2.9]})
    frame.set_index("run_id").to_parquet(tmp_path / "table.parquet")
    expected = read(frame)[0]
    for source in (frame.set_index("run_id"), tmp_path / "table.parquet"):
        pd.testing.assert_frame_equal(read(source)[0][list(expected)], expected)
    with pytest.raises(InputError, match="two columns are called 'loss'"):
        read(frame.assign(run_id=[1.0, 2.0]).set_index(frame.loss.rename("loss")))


def test_a_line_of_any_length_is_read(tmp_path):
    path, long = tmp_path / "table.csv", "x" * 3_000_000
    path.write_text(f'{",".join(f"config.{i}" for i in range(2))},{long}\n1,2,"{long}"\n')
    assert read(path)[0].iloc[0].tolist() == [1.0, 2.0, long]


@pytest.mark.parametrize(("suffix", "delimiter", "named"), [("csv", ";", "semicolons"), ("tsv", ",", "commas")])
def test_another_delimiter_is_named(tmp_path, suffix, delimiter, named):
    path = tmp_path / f"table.{suffix}"
    path.write_text(delimiter.join(["n", "d", "loss"]) + "\n" + delimiter.join(["1", "2", "3"]) + "\n")
    with pytest.raises(InputError, match=f"columns are separated by {named}"):
        read(path)


def test_a_refusal_lists_few_of_many_columns():
    wide = pd.DataFrame({f"c{i}": [1.0] for i in range(3000)})
    with pytest.raises(InputError, match="no column 'loss' for loss .*c39 and 2960 more") as refused:
        laws.load(wide)
    assert len(str(refused.value)) < 500


@pytest.mark.parametrize("argument", ["loss_stderr", "best_by"])
def test_a_missing_column_is_named_with_its_own_flag(argument):
    table = pd.DataFrame({"params_total": [1e8, 2e8], "tokens": [1e9, 2e9], "loss": [3.0, 2.9]})
    with pytest.raises(InputError, match=f"no column 'nowhere' for {argument} ") as refusal:
        laws.load(table, **{argument: "nowhere"})
    assert refusal.value.flag == f"--{argument}=COLUMN"
