#!/usr/bin/env bash
# Library: optax 0.2.8 (jax 0.10.2).
# Expected: inject_hyperparams(adam) on bfloat16 parameters makes the updates of plain adam; its default b2 is 0.999.
# Seen: every hyperparameter takes the type of the first parameter. In bfloat16 the b2 of 0.999 becomes 1, the bias
# correction 1 - b2^t becomes 0, and all updates are NaN from the first step on, without a warning.
# Way round: pass hyperparam_dtype=jax.numpy.float32.
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

import jax.numpy as jnp
import numpy as np
import optax

params = {"kernel": jnp.ones(3, jnp.bfloat16)}
gradients = {"kernel": jnp.array([0.1, -0.2, 0.3], jnp.bfloat16)}


def first_update(optimizer):
    state = optimizer.init(params)
    updates, _ = optimizer.update(gradients, state, params)
    return np.asarray(updates["kernel"], np.float32), state


plain, _ = first_update(optax.adam(1e-2))
injected, state = first_update(optax.inject_hyperparams(optax.adam)(learning_rate=1e-2))
wide, _ = first_update(optax.inject_hyperparams(optax.adam, hyperparam_dtype=jnp.float32)(learning_rate=1e-2))
b2 = state.hyperparams["b2"]
print(f"optax {optax.__version__}, Adam, first update of three bfloat16 parameters")
print(f"expected, plain adam:      {plain}")
print(f"seen, inject_hyperparams:  {injected}   its b2: {float(b2)} ({b2.dtype})")
print(f"with hyperparam_dtype f32: {wide}")
described = np.isfinite(plain).all() and np.isnan(injected).all() and float(b2) == 1.0 and np.isfinite(wide).all()
print("as described" if described else "the behaviour has changed")
sys.exit(0 if described else 1)
PYTHON
