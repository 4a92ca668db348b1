#!/usr/bin/env bash
# Library: optax 0.2.8 (jax 0.10.2).
# Expected: the global norm of a gradient tree depends on its numbers, not on how many arrays they are spread over:
# 1,000 ones have the norm 31.6.
# Seen: the squared norms of the leaves are added up one after another in bfloat16, where 256 + 1 is 256. As one array the
# norm is 31.6, as 1,000 arrays it is 16. clip_by_global_norm(1) then leaves twice the allowed norm: layers kept apart
# (many small leaves) are clipped otherwise than the same layers stacked.
# Way round: cast the gradients to float32 before the norm.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
  optax==0.2.8 jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
cd "$folder"
export JAX_PLATFORMS=cpu
"$folder/venv/bin/python" -I - <<'PYTHON'
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax

stacked = [jnp.ones(1000, jnp.bfloat16)]
apart = [jnp.ones((), jnp.bfloat16) for _ in range(1000)]
norms = [float(optax.tree.norm(tree)) for tree in (stacked, apart)]
clip = optax.clip_by_global_norm(1.0)


def norm_after_clipping(tree):
    clipped, _ = clip.update(tree, clip.init(tree))
    return float(np.linalg.norm(np.concatenate([np.ravel(np.asarray(leaf, np.float64)) for leaf in clipped])))


after = [norm_after_clipping(tree) for tree in (stacked, apart)]
wide = float(optax.tree.norm(jax.tree.map(lambda leaf: leaf.astype(jnp.float32), apart)))
print(f"optax {optax.__version__}, 1,000 bfloat16 ones: true norm {1000**0.5:.3f}, after clipping to 1 at most 1")
print(f"seen as one array:    norm {norms[0]:.3f}, after clipping {after[0]:.3f}")
print(f"seen as 1,000 arrays: norm {norms[1]:.3f}, after clipping {after[1]:.3f} (norm in float32: {wide:.3f})")
described = abs(norms[0] - 31.6) < 0.1 and norms[1] == 16.0 and after[0] < 1.01 and after[1] > 1.9
print("as described" if described else "the behaviour has changed")
sys.exit(0 if described else 1)
PYTHON
