#!/usr/bin/env bash
# Library: pyarrow 26.0.1 (with pandas 3.1.1).
# Expected: a valid CSV file of two runs by 40,000 columns, one for each metric of each task, as trackers export them, is
# read with the default options; or the error names the limit, that a line is longer than a block of 1 MiB.
# Seen: read_csv says that the file or a block is empty and that the number of columns cannot be inferred, because the header
# line, of 1.2 MB, does not fit into one block. pandas' read_csv with engine="pyarrow" raises EmptyDataError, no columns to
# parse from the file; with its default engine it reads the table.
# Way round: ReadOptions(block_size=...) above the length of the longest line.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check pyarrow==26.0.1 pandas==3.1.1 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" -I - <<'PYTHON'
import sys

import pandas as pd
import pyarrow as pa
from pyarrow import csv

names = [f"eval/task_{number:05d}/accuracy_error" for number in range(40_000)]
lines = [",".join(names), ",".join(["0.5"] * len(names)), ",".join(["0.25"] * len(names))]
with open("runs.csv", "w") as file:
    file.write("\n".join(lines) + "\n")


def outcome(read):
    try:
        rows, columns = read().shape
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return f"{rows} rows, {columns} columns"


whole = csv.ReadOptions(block_size=len(lines[0]) + 1)
print(f"pyarrow {pa.__version__}, pandas {pd.__version__}; the header line has {len(lines[0]):,} bytes")
outcomes = {
    "pyarrow": outcome(lambda: csv.read_csv("runs.csv")),
    "pandas, engine pyarrow": outcome(lambda: pd.read_csv("runs.csv", engine="pyarrow")),
    "pandas": outcome(lambda: pd.read_csv("runs.csv")),
    "pyarrow, one block for the header": outcome(lambda: csv.read_csv("runs.csv", read_options=whole)),
}
for reader, result in outcomes.items():
    print(f"{reader}: expected 2 rows, 40000 columns; seen {result}")
read = [reader for reader, result in outcomes.items() if result == "2 rows, 40000 columns"]
described = (
    read == ["pandas", "pyarrow, one block for the header"]
    and "Empty CSV file or block" in outcomes["pyarrow"]
    and outcomes["pandas, engine pyarrow"].startswith("EmptyDataError")
)
print("as described" if described else "the behaviour has changed")
sys.exit(0 if described else 1)
PYTHON
