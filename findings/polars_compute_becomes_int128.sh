#!/usr/bin/env bash
# Library: polars 2.1.0 (with pyarrow 26.0.1, pandas 3.1.1).
# Expected: a CSV column of training compute that holds 588000000000000000000000 FLOPs (Chinchilla) as an integer is read as
# float64, as pyarrow reads it, or refused; the table can then be written and used elsewhere.
# Seen: polars infers a 128-bit integer, without a word, and only the next tool fails: to_numpy, to_pandas and to_arrow
# raise, and a Parquet file that polars writes and reads back cannot be read by pyarrow nor, through it, by pandas.
# Way round: schema_overrides={"C": polars.Float64}.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
  polars==2.1.0 pyarrow==26.0.1 pandas==3.1.1 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" -I - <<'PYTHON'
import io
import sys

import pandas as pd
import polars as pl
import pyarrow as pa
from pyarrow import csv, parquet

text = b"C,loss\n588000000000000000000000,1.94\n1000000000000000000,2.9\n"
arrow_type = csv.read_csv(io.BytesIO(text)).schema.field("C").type
table = pl.read_csv(io.BytesIO(text))
table.write_parquet("runs.parquet")
uses = {
    "polars reads its Parquet": lambda: pl.read_parquet("runs.parquet"),
    "to_numpy": lambda: table["C"].to_numpy(),
    "to_pandas": table.to_pandas,
    "to_arrow": table.to_arrow,
    "pyarrow reads the Parquet": lambda: parquet.read_table("runs.parquet"),
    "pandas reads the Parquet": lambda: pd.read_parquet("runs.parquet"),
}
seen = {}
for name, use in uses.items():
    try:
        use()
        seen[name] = "works"
    except Exception as error:
        seen[name] = f"{type(error).__name__}: {str(error).splitlines()[0]}"
print(f"polars {pl.__version__}, pyarrow {pa.__version__}, pandas {pd.__version__}")
polars_type = table.schema["C"]
print(f"column C: expected {arrow_type}, as of pyarrow; seen {polars_type}")
for name, outcome in seen.items():
    print(f"{name}: {outcome}")
works = [name for name, outcome in seen.items() if outcome == "works"]
described = str(arrow_type) == "double" and polars_type == pl.Int128 and works == ["polars reads its Parquet"]
print("as described" if described else "the behaviour has changed")
sys.exit(0 if described else 1)
PYTHON
