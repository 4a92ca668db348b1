#!/usr/bin/env bash
# Library: jax 0.10.2.
# Expected: shardings of the arguments of jit change where arrays lie, not what is computed.
# Seen: a recurrence state -> tanh(input + state @ kernel) under lax.scan, on a mesh data x fsdp x tensor of 2 x 2 x 2. With the
# kernel split over (fsdp, tensor) and the batch over (data, fsdp) the loss is right and its gradient 21% of its largest entry
# off; with the kernel over (tensor, fsdp) the loss is off as well, and the gradient by 34%. Nothing is said. With the kernel
# split over the axis tensor alone, both are right.
# Way round: constrain the kernel to one axis, or to none, before the scan.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
  jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
cd "$folder"
export JAX_PLATFORMS=cpu XLA_FLAGS=--xla_force_host_platform_device_count=8
"$folder/venv/bin/python" -I - 2> "$folder/log" <<'PYTHON'
import sys

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec

mesh = jax.make_mesh((2, 2, 2), ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)
kernel = 0.3 * jax.random.normal(jax.random.key(0), (8, 8))
inputs = jax.random.normal(jax.random.key(1), (6, 8, 8))  # steps, batch, features


def loss(kernel, inputs):
    def step(state, now):
        state = jnp.tanh(now + state @ kernel)
        return state, state

    return jnp.sum(jnp.sin(jax.lax.scan(step, jnp.zeros((8, 8)), inputs)[1]))


function = jax.value_and_grad(loss)
value, gradient = jax.jit(function)(kernel, inputs)
rows = NamedSharding(mesh, PartitionSpec(None, ("data", "fsdp")))
off = {}
for axes in (("fsdp", "tensor"), ("tensor", "fsdp"), (None, "tensor")):
    where = NamedSharding(mesh, PartitionSpec(*axes))
    split = jax.jit(function, in_shardings=(where, rows), out_shardings=(None, where))
    other, grads = split(kernel, inputs)
    off[axes] = abs(float(other - value)), float(jnp.abs(grads - gradient).max() / jnp.abs(gradient).max())
    print(f"jax {jax.__version__}, kernel over {axes}: loss off by {off[axes][0]:.6f}, gradient by {off[axes][1]:.1%}")
first, second, right = off.values()
described = first[0] < 1e-4 and first[1] > 0.1 and second[0] > 0.1 and second[1] > 0.3
described = described and right[0] < 1e-4 and right[1] < 1e-4
print("as described" if described else "the behaviour has changed")
sys.exit(0 if described else 1)
PYTHON
