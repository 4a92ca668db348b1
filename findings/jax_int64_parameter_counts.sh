#!/usr/bin/env bash
# Library: jax 0.10.2, with its default of 32 bits.
# Expected: log of 70,000,000,000 parameters in a NumPy int64 array is 24.97, or an error says that it does not fit.
# Seen: the array is wrapped to int32 on its way in, in jnp functions, in the arguments of jitted functions and in
# device_put alike, without a word: 70 billion become 1,280,523,264 and the log 20.97. The same number in a Python list
# raises OverflowError. Seeds go the same way: key(2**32 + 5) is key(5).
# Way round: give float64 arrays, which only lose digits, or enable 64 bits.
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
import warnings

import jax
import jax.numpy as jnp
import numpy as np

warnings.simplefilter("error")  # a warning would be an error here
parameters = np.array([70_000_000_000])
expected = float(np.log(parameters)[0])
direct = float(jnp.log(parameters)[0])
jitted = float(jax.jit(jnp.log)(parameters)[0])
stored = int(jax.device_put(parameters)[0])
try:
    jnp.log(jnp.asarray(parameters.tolist()))
    of_list = "no error"
except OverflowError as error:
    of_list = f"OverflowError: {error}"
seeds_equal = bool((jax.random.key_data(jax.random.key(2**32 + 5)) == jax.random.key_data(jax.random.key(5))).all())
print(f"jax {jax.__version__}, log of {int(parameters[0]):,} as NumPy int64: expected {expected:.3f}")
print(f"seen: jnp.log {direct:.3f}, jitted {jitted:.3f}, device_put {stored:,}; no warning")
print(f"as a list: {of_list}")
print(f"key(2**32 + 5) equals key(5): {seeds_equal}")
described = abs(direct - 20.97) < 0.01 and abs(jitted - 20.97) < 0.01 and stored == 1280523264
described = described and of_list.startswith("OverflowError") and seeds_equal
print("as described" if described else "the behaviour has changed")
sys.exit(0 if described else 1)
PYTHON
