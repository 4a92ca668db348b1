#!/usr/bin/env bash
# Library: jax 0.10.2.
# Expected: a splash attention kernel is made for queries in several shards (`q_seq_shards`), whatever mask of the library it
# is made with.
# Seen: with the mask that hides nothing (FullMask), which one shard takes, two shards end in "ValueError: need at least one
# array to concatenate" while the mask of the backward pass is laid out; a causal mask is taken in two shards. Nothing is run
# on a device.
# Way round: a full mask of one shard's queries, which is the same for all shards.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
  jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
cd "$folder"
export JAX_PLATFORMS=cpu
"$folder/venv/bin/python" -I - 2> "$folder/log" <<'PYTHON'
import sys

import jax
from jax.experimental.pallas.ops.tpu.splash_attention import (
    splash_attention_kernel as splash,
    splash_attention_mask as masks,
)

NAMES = ("block_q", "block_kv", "block_kv_compute", "block_q_dkv", "block_kv_dkv", "block_kv_dkv_compute")
SIZES = splash.BlockSizes(**dict.fromkeys((*NAMES, "block_q_dq", "block_kv_dq"), 128))


def made(mask, shards):
    heads = masks.MultiHeadMask([mask((512, 512))] * 2)
    try:
        splash.make_splash_mqa(heads, block_sizes=SIZES, head_shards=1, q_seq_shards=shards)
    except ValueError as error:
        return f"ValueError: {error}"
    return "made"


found = {(mask.__name__, n): made(mask, n) for mask in (masks.CausalMask, masks.FullMask) for n in (1, 2)}
for (name, shards), outcome in found.items():
    print(f"jax {jax.__version__}, {name} of 512 x 512, {shards} shard(s) of the queries: {outcome}")
*right, wrong = found.values()
described = set(right) == {"made"} and wrong == "ValueError: need at least one array to concatenate"
print("as described" if described else "the behaviour has changed")
sys.exit(0 if described else 1)
PYTHON
