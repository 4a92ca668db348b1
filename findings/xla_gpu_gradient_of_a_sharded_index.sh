#!/usr/bin/env bash
# Library: jax 0.10.2 with jax-cuda13-plugin and jax-cuda13-pjrt 0.10.2 (XLA's compiler for GPUs; no GPU is used).
# Expected: a program that each of two shards indexes with a number of its own (`vmap` of `dynamic_index_in_dim`) compiles for
# eight H100, and so does its gradient, as both do for eight CPU devices.
# Seen: the program compiles; its gradient, inside a scan, is rejected while it is partitioned: "Bounds of the window
# dimensions of updates must not exceed the bounds of the corresponding dimensions of operand". On eight CPU devices it
# compiles. A deeper program ends in "Repeated dimensions not allowed in scatter_dims_to_operand_dims".
# Way round: to choose by comparison (`jnp.where` over the few candidates) instead of by index.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps \
  jax-cuda13-plugin==0.10.2 jax-cuda13-pjrt==0.10.2
cd "$folder"
export JAX_PLATFORMS=cpu XLA_FLAGS=--xla_force_host_platform_device_count=8
"$folder/venv/bin/python" -I - 2> "$folder/log" <<'PYTHON'
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec as P

H100 = """gpu_device_info { threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
registers_per_core_limit: 65536 registers_per_block_limit: 65536 thread_dim_limit_x: 1024 thread_dim_limit_y: 1024
thread_dim_limit_z: 64 block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
shared_memory_per_block: 49152 shared_memory_per_core: 233472 shared_memory_per_block_optin: 232448 core_count: 132
fpus_per_core: 128 clock_rate_ghz: 1.98 memory_bandwidth: 3352320000000 l2_cache_size: 52428800
device_memory_size: 84942979072 cuda_compute_capability { major: 9 feature_extension: ACCELERATED_FEATURES } }
platform_name: "CUDA" dnn_version_info { major: 9 minor: 10 } device_description_str: "NVIDIA H100 80GB HBM3" """


def total(kernels, x):
    """Two stages, each with its own of two kernels at every tick."""

    def tick(x, time):
        turn = jnp.clip(time - jnp.arange(2), 0, 1)
        own = jax.vmap(lambda held, i: jax.lax.dynamic_index_in_dim(held, i, keepdims=False), (1, 0))(kernels, turn)
        return jnp.roll(jnp.tanh(jnp.einsum("sbd,sde->sbe", x, own)), 1, axis=0), None

    return jnp.sum(jax.lax.scan(tick, x, jnp.arange(3))[0])


def compiled(function, devices):
    mesh = Mesh(np.array(devices).reshape(2, 4), ("stage", "data"), axis_types=(AxisType.Auto,) * 2)
    where = [NamedSharding(mesh, P(None, "stage")), NamedSharding(mesh, P("stage", "data"))]
    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((2, 2, 16, 16), (2, 8, 16))]
    try:
        jax.jit(function, in_shardings=where).lower(*shapes).compile()
    except Exception as error:
        return " ".join(str(error).partition("error: ")[2].split())[:110]
    return "compiled"


gpus = topologies.get_topology_desc("", "cuda", topology="1x1x8", target_config=H100).devices
found = {
    (kind, name): compiled(function, devices)
    for kind, devices in (("eight CPU devices", jax.devices("cpu")), ("eight H100", gpus))
    for name, function in (("value", total), ("gradient", jax.grad(total)))
}
for (kind, name), outcome in found.items():
    print(f"jax {jax.__version__}, {kind}, {name}: {outcome}")
*right, wrong = found.values()
described = set(right) == {"compiled"} and "Bounds of the window dimensions" in wrong
print("as described" if described else "the behaviour has changed")
sys.exit(0 if described else 1)
PYTHON
