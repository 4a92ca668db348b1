#!/usr/bin/env bash
# Library: pandas 3.1.1.
# Expected: a table of runs written by to_json(orient="records", lines=True) and read by read_json(lines=True) is the table
# that was written.
# Seen: to_json keeps ten places after the point, not ten digits: a learning rate of 3.16e-11 becomes 0 (3.16e-16
# survives), and one of 1.2345678e-5 keeps six digits. read_json takes a column whose name ends in _at for dates:
# tokens_at, the tokens seen at an evaluation, comes back as days in 2001, 2033 and 2096. Both without a word.
# Way round: read with dtype=False (convert_dates is deprecated); for small numbers write CSV or Parquet, since even
# double_precision=15, the most there is, keeps five digits of 3.16227766e-11.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
  pandas==3.1.1 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" -I - <<'PYTHON'
import io
import sys

import pandas as pd

table = pd.DataFrame(
    {
        "lr": [3.16227766e-11, 1.2345678e-5, 3.16227766e-16],
        "tokens_at": [1_000_000_000, 2_000_000_000, 4_000_000_000],
        "loss": [3.5, 3.1, 2.9],
    }
)
text = table.to_json(orient="records", lines=True)
back = pd.read_json(io.StringIO(text), lines=True)
undated = pd.read_json(io.StringIO(text), lines=True, dtype=False)
precise = pd.read_json(io.StringIO(table.to_json(orient="records", lines=True, double_precision=15)), lines=True)
print(f"pandas {pd.__version__}, JSON lines written and read back")
print(f"lr:        expected {table.lr.tolist()}, seen {back.lr.tolist()} (double_precision=15: {precise.lr.tolist()})")
print(f"tokens_at: expected {table.tokens_at.tolist()}, seen {back.tokens_at.astype(str).tolist()}")
described = back.lr[0] == 0.0 and abs(back.lr[1] / 1.2345678e-5 - 1) > 1e-6 and back.lr[2] == table.lr[2]
described = described and back.loss.equals(table.loss)
described = described and pd.api.types.is_datetime64_any_dtype(back.tokens_at)
described = described and undated.tokens_at.equals(table.tokens_at)
print("as described" if described else "the behaviour has changed")
sys.exit(0 if described else 1)
PYTHON
