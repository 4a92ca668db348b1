#!/usr/bin/env bash
# Library: flax 0.12.8, linen and nnx (jax 0.10.2).
# Expected: LayerNorm returns values of standard deviation 1, whatever the mean of its input.
# Seen: by default the variance is mean(x^2) - mean(x)^2, in float32 too. On features of mean 1,000 and standard deviation
# 0.1 the difference is lost to rounding and cut off at 0: the output has a standard deviation of about 100. One feature
# with a large common offset is enough; no warning.
# Way round: use_fast_variance=False (or subtract the offset first).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
  flax==0.12.8 jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
cd "$folder"
export JAX_PLATFORMS=cpu
"$folder/venv/bin/python" -I - <<'PYTHON'
import sys

import flax
import jax
import numpy as np
from flax import linen, nnx

noise = np.random.default_rng(0).normal(0, 0.1, (1, 512))


def deviation(mean, fast):
    x = (mean + noise).astype(np.float32)
    layer = linen.LayerNorm(use_fast_variance=fast)
    return float(np.std(layer.apply(layer.init(jax.random.key(0), x), x)))


def nnx_deviation(mean):
    return float(np.std(nnx.LayerNorm(512, rngs=nnx.Rngs(0))((mean + noise).astype(np.float32))))


print(f"flax {flax.__version__}, LayerNorm of float32 features of standard deviation 0.1; expected output: 1.00")
for mean in (0.0, 1000.0):
    fast, exact = deviation(mean, True), deviation(mean, False)
    print(f"mean {mean:6.0f}: seen {fast:.2f} (nnx {nnx_deviation(mean):.2f}), with use_fast_variance=False {exact:.2f}")
described = abs(deviation(0.0, True) - 1) < 0.01 and min(deviation(1000.0, True), nnx_deviation(1000.0)) > 10
described = described and abs(deviation(1000.0, False) - 1) < 0.01
print("as described" if described else "the behaviour has changed")
sys.exit(0 if described else 1)
PYTHON
