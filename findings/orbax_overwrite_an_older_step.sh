#!/usr/bin/env bash
# Library: orbax-checkpoint 0.12.8, its v1 interface (jax 0.10.2).
# Expected: Checkpointer.save(10, state, overwrite=True), where steps 10 and 20 are there, puts the new state in the place
# of the old one, or else leaves step 10 as it was.
# Seen: the old step 10 is deleted and the new one is not saved, since the default policy saves no step below the newest.
# No error; only the returned False tells. (A plain save of an older step is skipped too, with nothing deleted.)
# Way round: pass force=True as well.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
  orbax-checkpoint==0.12.8 jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
cd "$folder"
export JAX_PLATFORMS=cpu
"$folder/venv/bin/python" -I - <<'PYTHON'
import logging
import pathlib
import sys
import warnings
from importlib.metadata import version

import jax.numpy as jnp
from orbax.checkpoint import v1 as ocp

logging.disable(logging.CRITICAL)
warnings.simplefilter("ignore")


def after(name, **how):
    manager = ocp.training.Checkpointer(pathlib.Path(name).absolute())
    for step in (10, 20):
        manager.save(step, {"w": jnp.full(2, float(step))})
    saved = manager.save(10, {"w": jnp.full(2, 99.0)}, **how)
    steps = [checkpoint.step for checkpoint in manager.checkpoints]
    manager.close()
    return saved, steps


overwritten, forced = after("overwrite", overwrite=True), after("forced", overwrite=True, force=True)
print("orbax-checkpoint", version("orbax-checkpoint"), "save of step 10 where 10 and 20 are there: (saved, steps there)")
print("overwrite=True:             expected (True, [10, 20]), seen", overwritten)
print("overwrite=True, force=True: seen", forced)
described = overwritten == (False, [20]) and forced == (True, [10, 20])
print("as described" if described else "the behaviour has changed")
sys.exit(0 if described else 1)
PYTHON
