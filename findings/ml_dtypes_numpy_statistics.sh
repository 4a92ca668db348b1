#!/usr/bin/env bash
# Library: ml_dtypes 0.6.0 with numpy 2.4.6.
# Expected: the mean of 1,000 losses of 1.0 in a bfloat16 array is 1 (as it is in float16, which NumPy sums in float32);
# nanmean leaves NaN out; sort puts NaN last and the median of values with a NaN is NaN.
# Seen: sums and cumulative sums stop at 256, so the mean is 0.256. To NumPy bfloat16 is no floating type: nanmean of
# [3, NaN] is NaN, sort of [3, NaN, 2, 1] is [3, NaN, 1, 2], not sorted at all, and the median of [3, NaN, 2, 1, 0] is 0.
# Way round: astype(float32) first. Arrays of jax become such arrays by np.asarray.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
  ml-dtypes==0.6.0 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" -I - <<'PYTHON'
import sys
from importlib.metadata import version

import ml_dtypes
import numpy as np


def statistics(dtype):
    nan = np.nan
    return {
        "mean of 1,000 ones": float(np.ones(1000, dtype).mean()),
        "nanmean of [3, NaN]": float(np.nanmean(np.array([3, nan], dtype))),
        "sort of [3, NaN, 2, 1]": np.sort(np.array([3, nan, 2, 1], dtype)).astype(float).tolist(),
        "median of [3, NaN, 2, 1, 0]": float(np.median(np.array([3, nan, 2, 1, 0], dtype))),
    }


half, brain = statistics(np.float16), statistics(ml_dtypes.bfloat16)
print("ml_dtypes", version("ml-dtypes"), "numpy", np.__version__)
for name in half:
    print(f"{name}: expected, as in float16, {half[name]}; seen in bfloat16 {brain[name]}")
described = abs(brain["mean of 1,000 ones"] - 0.256) < 0.001 and half["mean of 1,000 ones"] == 1.0
described = described and np.isnan(brain["nanmean of [3, NaN]"]) and half["nanmean of [3, NaN]"] == 3.0
last = [found["sort of [3, NaN, 2, 1]"][-1] for found in (half, brain)]
described = described and np.isnan(last[0]) and not np.isnan(last[1])
described = described and brain["median of [3, NaN, 2, 1, 0]"] == 0.0 and np.isnan(half["median of [3, NaN, 2, 1, 0]"])
print("as described" if described else "the behaviour has changed")
sys.exit(0 if described else 1)
PYTHON
