#!/usr/bin/env bash
# Library: duckdb 2.0.1 (with pandas 3.1.1, polars 2.1.0).
# Expected: one query over one table of runs, one of which diverged to a loss of NaN, has one answer, whether the table comes
# from pandas or polars, from memory, Parquet or CSV.
# Seen: a NaN is NULL when it comes from pandas and a number above all others when it comes from polars. count is 2 or 3, avg
# 2.5 or NaN, and arg_max, the worst run, the one of loss 3 or the one that diverged.
# Way round: state it in the query: FILTER (WHERE isfinite(loss)).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
  duckdb==2.0.1 pandas==3.1.1 polars==2.1.0 pyarrow==26.0.1 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" -I - <<'PYTHON'
import sys

import duckdb
import pandas as pd
import polars as pl

columns = {"run": [1, 2, 3], "loss": [float("nan"), 3.0, 2.0]}
by_pandas, by_polars = pd.DataFrame(columns), pl.DataFrame(columns)
by_pandas.to_parquet("pandas.parquet")
by_pandas.to_csv("pandas.csv", index=False)
by_polars.write_parquet("polars.parquet")
by_polars.write_csv("polars.csv")


def answer(source):
    count, mean, worst = duckdb.sql(f"select count(loss), avg(loss), arg_max(run, loss) from {source}").fetchall()[0]
    return count, str(mean), worst


def filtered(source):
    only = "FILTER (WHERE isfinite(loss))"
    return duckdb.sql(f"select count(loss) {only}, avg(loss) {only} from {source}").fetchall()[0]


sources = (
    "by_pandas",
    "'pandas.parquet'",
    "'pandas.csv'",
    "by_polars",
    "'polars.parquet'",
    "'polars.csv'",
)
answers = {source: answer(source) for source in sources}
print(f"duckdb {duckdb.__version__}, losses NaN, 3, 2 of runs 1, 2, 3: (count, avg, arg_max); expected one answer for all")
for source, found in answers.items():
    print(f"{source}: seen {found}, filtered {filtered(source)}")
described = all(answers[source] == (2, "2.5", 2) for source in sources[:3])
described = described and all(answers[source] == (3, "nan", 1) for source in sources[3:])
described = described and {filtered(source) for source in sources} == {(2, 2.5)}
print("as described" if described else "the behaviour has changed")
sys.exit(0 if described else 1)
PYTHON
