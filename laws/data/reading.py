"""Tables from files, read alike whatever the format: CSV, TSV, JSON lines and Parquet of one table give one frame.

No reader guesses types from names or from the first rows. Each column becomes one of these, by all of its values:

- numbers: float64, or int64 where float64 would lose digits. Text counts as a number if it is written as one: "0012" is not.
- truth values: bool, or float64 (1, 0 and NaN) where some are missing.
- times: unix seconds as float64, from timestamps and from text in ISO 8601 with date and time (UTC if no zone is given).
- text: everything else, nested values as JSON. Identities (``IDENTITIES``) are text whatever they look like.

Missing values are NaN, and None in text. Nothing in a file is executed.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from laws.base.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

# Columns that name a run: ours, that of the run it was forked from, that of an export of Weights & Biases.
IDENTITIES = ("run_id", "trunk", "ID")
# Text that stands for a missing number.
MISSING = ("", "nan", "NaN", "NA", "N/A", "<NA>", "null", "NULL", "None")
NUMBER = r"\s*[+-]?(?:(?:0|[1-9]\d*)(?:\.\d*)?(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?|inf|Inf|Infinity)\s*"
WHOLE = r"\s*[+-]?(?:0|[1-9]\d*)\s*"
TRUTH = {"True": True, "true": True, "TRUE": True, "False": False, "false": False, "FALSE": False}
TIME = r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?\s*(?:Z|[+-]\d\d:?\d\d)?"
DELIMITERS = {",": "commas", "\t": "tabs", ";": "semicolons"}
# Whole numbers up to this are exact in float64.
EXACT = 2**53


def read(source: str | Path | pd.DataFrame, text: Sequence[str] = ()) -> tuple[pd.DataFrame, str]:
    """A table with typed columns, and the name by which messages call it.

    Args:
        source: path of a file, or a frame.
        text: columns that are identities beside ``IDENTITIES``, such as that of ``run``.

    Raises:
        InputError: a missing, unreadable or unknown kind of file, two columns of one name, or no rows.
    """
    import pandas as pd

    if isinstance(source, pd.DataFrame):
        raw, name = _with_named_index(source), "table"
    else:
        path = Path(source)
        raw, name = _raw(path), path.name
    header = [str(column).strip() for column in raw.columns]
    if twice := [column for column, count in Counter(header).items() if count > 1]:
        raise InputError(f"{name}: two columns are called '{twice[0]}'")
    if not len(raw):
        raise InputError(f"{name if name == 'table' else source}: the table has no rows")
    identities = {*IDENTITIES, *text}
    columns = [
        texts(raw.iloc[:, i]) if column in identities else typed(raw.iloc[:, i]) for i, column in enumerate(header)
    ]
    return pd.DataFrame(dict(zip(header, columns, strict=True)), index=pd.RangeIndex(len(raw))), name


def is_table(path: str | Path) -> bool:
    """Whether a path ends as that of a table does."""
    return Path(path).suffix.lower() in READERS


def _with_named_index(frame: pd.DataFrame) -> pd.DataFrame:
    """A frame whose index, where it has a name, is a column like any other, as in a file that was written from it."""
    named = [i for i, name in enumerate(frame.index.names) if name is not None]
    return frame.reset_index(named, allow_duplicates=True) if named else frame


def _raw(path: Path) -> pd.DataFrame:
    if not path.exists():
        raise InputError(f"{path}: no such table")
    if path.is_dir():
        raise InputError(f"{path}: a directory, not a table (collect it first: isoflop collect {path})")
    suffix = path.suffix.lower()
    if suffix not in READERS:
        raise InputError(f"{path}: cannot read '{path.suffix}' (tables are {', '.join(READERS)})")
    try:
        return READERS[suffix](path)
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text (byte {error.start})") from error
    except InputError:
        raise
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path}: not a readable {suffix[1:]} table ({reason})") from error


def _delimited(delimiter: str) -> Callable[[Path], pd.DataFrame]:
    """A reader of delimited text, all columns as text."""

    def reader(path: Path) -> pd.DataFrame:
        import pyarrow as pa
        from pyarrow import csv

        content = path.read_bytes()
        content.decode("utf-8")  # names the byte, where pyarrow names the column at best
        # One block: pyarrow refuses a line that is longer than a block, and of a long header says that the file is empty.
        whole = csv.ReadOptions(block_size=min(len(content) + 1, 2**31 - 1))
        parse = csv.ParseOptions(delimiter=delimiter, newlines_in_values=True)
        header = csv.open_csv(pa.BufferReader(content), read_options=whole, parse_options=parse).schema.names
        _check_delimiter(path, header, delimiter)
        types = dict.fromkeys(header, pa.string())
        convert = csv.ConvertOptions(column_types=types, strings_can_be_null=False)
        table = csv.read_csv(pa.BufferReader(content), read_options=whole, parse_options=parse, convert_options=convert)
        return table.to_pandas()

    return reader


def _check_delimiter(path: Path, header: Sequence[str], delimiter: str) -> None:
    """Refuses a file of one column whose name holds another delimiter."""
    others = [other for other in DELIMITERS if other != delimiter and len(header) == 1 and header[0].count(other) > 1]
    if others:
        raise InputError(
            f"{path}: columns are separated by {DELIMITERS[others[0]]}, and a {path.suffix} file has {DELIMITERS[delimiter]}"
        )


def _json_lines(path: Path) -> pd.DataFrame:
    import pandas as pd

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        record = dict(pairs)
        if len(record) < len(pairs):
            twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
            raise ValueError(f"two keys are called '{twice}'")
        return record

    columns: dict[str, list[Any]] = {}
    rows = 0
    for number, line in enumerate(path.read_bytes().decode("utf-8-sig").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line, object_pairs_hook=unique)
        except (ValueError, RecursionError) as error:
            reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
            raise InputError(f"{path}: line {number} is not a JSON object ({reason})") from error
        if not isinstance(record, dict):
            raise InputError(f"{path}: line {number} is not a JSON object (a table has one object a line)")
        for key in record:
            columns.setdefault(key, [None] * rows)
        for key, values in columns.items():
            values.append(record.get(key))
        rows += 1
    return pd.DataFrame({key: pd.Series(values, dtype=object) for key, values in columns.items()})


def _parquet(path: Path) -> pd.DataFrame:
    from pyarrow import parquet

    # Without pandas' own metadata, an index that has a name is a column like any other.
    table = parquet.ParquetFile(path).read().replace_schema_metadata(None)
    return table.to_pandas(ignore_metadata=True, integer_object_nulls=True)


READERS: dict[str, Callable[[Path], pd.DataFrame]] = {
    ".parquet": _parquet,
    ".csv": _delimited(","),
    ".tsv": _delimited("\t"),
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
}


def typed(column: pd.Series) -> pd.Series:
    """A column as numbers, truth values, times (unix seconds) or text, whichever all of its values are."""
    import pandas as pd

    if isinstance(column.dtype, np.dtype) and column.dtype.kind in "biuf":
        return _numbers(column)
    if pd.api.types.is_datetime64_any_dtype(column.dtype):
        return _seconds(column)
    values = column.astype(object).to_numpy(object)
    missing = np.fromiter(map(_absent, values), bool, len(values))
    kinds = {type(value) for value in values[~missing]}
    if kinds <= {str}:
        return _from_texts(pd.Series(values, dtype="str").mask(missing))
    if all(issubclass(kind, bool | np.bool_) for kind in kinds):
        return _truth(values, missing)
    if all(_is_number(kind) for kind in kinds):
        return _numbers(
            pd.Series([None if absent else x for x, absent in zip(values, missing, strict=True)], dtype=object)
        )
    if all(issubclass(kind, pd.Timestamp | np.datetime64) or kind.__name__ == "datetime" for kind in kinds):
        return _seconds(pd.to_datetime(pd.Series(values), utc=True))
    return _from_texts(texts(column))


def texts(column: pd.Series) -> pd.Series:
    """A column as text, None where a value is missing: a whole number without a point, nested values as JSON."""
    import pandas as pd

    values = column.astype(object).to_numpy(object)
    return pd.Series([None if _absent(value) else _text(value) for value in values], dtype="str")


def _absent(value: Any) -> bool:
    """Whether a value is none: None, NaN, NaT, NA or empty text."""
    import pandas as pd

    if isinstance(value, str):
        return not value
    return value is None or value is pd.NA or (np.ndim(value) == 0 and bool(value != value))


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, dict | list | np.ndarray):
        return json.dumps(value, default=lambda item: item.tolist() if hasattr(item, "tolist") else str(item))
    if isinstance(value, float | np.floating) and float(value).is_integer() and abs(value) < EXACT:
        return str(int(value))
    return str(value)


def _is_number(kind: type) -> bool:
    return issubclass(kind, int | float | np.integer | np.floating | Decimal) and not issubclass(kind, bool)


def _truth(values: np.ndarray, missing: np.ndarray) -> pd.Series:
    import pandas as pd

    if missing.any():
        return pd.Series([np.nan if absent else float(x) for x, absent in zip(values, missing, strict=True)])
    return pd.Series(values.astype(bool))


def _numbers(column: pd.Series) -> pd.Series:
    """float64, or int64 where whole numbers would lose digits; beyond either, the nearest float or infinity."""
    import pandas as pd

    if column.dtype.kind in "bf":
        return column.astype(np.float64 if column.dtype.kind == "f" else bool).reset_index(drop=True)
    if column.dtype.kind in "iu" and len(column) and max(int(column.max()), -int(column.min())) <= EXACT:
        return column.astype(np.float64).reset_index(drop=True)
    values = column.to_numpy(object)
    whole = [isinstance(x, int | np.integer) for x in values]
    if all(whole) and EXACT < max(abs(int(x)) for x in values) < 2**63:
        return pd.Series(values.astype(np.int64))
    return pd.Series([np.nan if _absent(x) else _float(x) for x in values], dtype=np.float64)


def _float(value: Any) -> float:
    try:
        return float(value)
    except OverflowError:  # a whole number beyond the largest float
        return float("inf") if value > 0 else float("-inf")


def _seconds(column: Any) -> pd.Series:
    """Unix seconds of timestamps; those without a zone are UTC."""
    import pandas as pd

    stamps = pd.to_datetime(column, utc=True)
    parts = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[stamps.dt.unit]
    seconds = stamps.astype("int64") / parts
    return seconds.where(stamps.notna(), np.nan).astype(np.float64).reset_index(drop=True)


def _from_texts(column: pd.Series) -> pd.Series:
    """A column of text as what all of its values are written as."""
    import pandas as pd

    column = column.reset_index(drop=True)
    filled = column[column.notna()]
    if not len(filled):
        return pd.Series(np.full(len(column), np.nan))
    if filled.isin(list(TRUTH)).all():
        return _truth(column.map(TRUTH).to_numpy(object), column.isna().to_numpy(bool))
    present = filled[~filled.isin(MISSING)]
    if not len(present):  # only markers of what is missing, which other formats hold as such
        return pd.Series(np.full(len(column), np.nan))
    if _all_match(present, NUMBER):
        if len(present) == len(column) and _all_match(present, WHOLE):
            return _numbers(pd.Series([int(x) for x in present], dtype=object))
        numbers = np.full(len(column), np.nan)
        numbers[present.index] = present.to_numpy(object).astype(np.float64)
        return pd.Series(numbers)
    if _all_match(present, TIME):
        seconds = np.full(len(column), np.nan)
        try:
            seconds[present.index] = _seconds(pd.Series(pd.to_datetime(present, utc=True, format="ISO8601")))
        except (ValueError, OverflowError):  # written as a time, and none: a month 13
            return column
        return pd.Series(seconds)
    return column


def _all_match(column: Any, pattern: str) -> bool:
    """Whether there are values, and all of them match; most columns are settled by their first."""
    return (
        len(column) > 0
        and re.fullmatch(pattern, column.iloc[0]) is not None
        and bool(column.str.fullmatch(pattern).all())
    )


def as_numbers(column: Any) -> Float[np.ndarray, " rows"]:
    """A column (Series) as float64, NaN where a value is no number."""
    if column.dtype.kind in "biuf":
        return column.to_numpy(np.float64)
    numbers = [float(x) if isinstance(x, str) and x.strip() and _reads_as_number(x) else np.nan for x in column]
    return np.array(numbers, np.float64)


def _reads_as_number(text: str) -> bool:
    return re.fullmatch(NUMBER, text) is not None
