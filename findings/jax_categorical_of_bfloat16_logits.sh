#!/usr/bin/env bash
# Library: jax 0.10.2.
# Expected: categorical draws each token with its probability, up to the rounding of the logits: a token of 99% and 999 rare
# ones that share 1% give 1% of rare tokens.
# Seen: the Gumbel noise is drawn in the type of the logits. In bfloat16 it has 128 values, none above 4.85, so a rare token
# (11.5 below the frequent one) can never win: 200,000 draws hold not one. A sampler that feeds the raw logits of a model in
# bfloat16 is greedier than its temperature says. normal in bfloat16 never passes 2.9 in size, for the same reason.
# Way round: cast the logits to float32.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
  jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
cd "$folder"
export JAX_PLATFORMS=cpu
"$folder/venv/bin/python" -I - <<'PYTHON'
import sys

import jax
import jax.numpy as jnp
import numpy as np

probabilities = np.full(1000, 0.01 / 999)
probabilities[0] = 0.99
key = jax.random.key(0)
share, largest = {}, {}
for dtype in (jnp.float32, jnp.bfloat16):
    logits = jnp.log(jnp.asarray(probabilities)).astype(dtype)
    rounded = np.asarray(jax.nn.softmax(logits.astype(jnp.float32)))[1:].sum()
    drawn = jax.lax.map(lambda k: jax.random.categorical(k, logits, shape=(2000,)), jax.random.split(key, 100))
    share[dtype] = float(np.mean(np.asarray(drawn) != 0))
    largest[dtype] = float(np.abs(np.asarray(jax.random.normal(key, (10**6,), dtype), np.float32)).max())
    print(
        f"jax {jax.__version__}, {jnp.dtype(dtype).name}: rare tokens expected {rounded:.4f}, seen {share[dtype]:.4f} "
        f"of 200,000; largest of 1,000,000 normals {largest[dtype]:.2f}"
    )
described = abs(share[jnp.float32] - 0.01) < 0.002 and share[jnp.bfloat16] == 0.0
described = described and largest[jnp.float32] > 4 and largest[jnp.bfloat16] < 3
print("as described" if described else "the behaviour has changed")
sys.exit(0 if described else 1)
PYTHON
