#!/usr/bin/env bash
# Library: orbax-checkpoint 0.12.8, its v1 interface (jax 0.10.2).
# Expected: BestN(n=1) on scores 0.5, 0.7, 0.6, NaN, 0.1 keeps the step of 0.7: a NaN (an evaluation that diverged) is no
# score.
# Seen: NaN takes the place of the best, whose checkpoint is deleted at that save; the next step, 0.1, then takes the place
# of NaN. What is left is the worst of all. Of equal scores the later is kept.
# Way round: pass no metrics, or minus infinity, where a score is not finite.
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
policies = ocp.training.preservation_policies


def kept(name, scores):
    best = policies.BestN(get_metric_fn=lambda metrics: metrics["score"], n=1, keep_checkpoints_without_metrics=False)
    manager = ocp.training.Checkpointer(pathlib.Path(name).absolute(), preservation_policy=best)
    for step, score in enumerate(scores):
        manager.save(step, {"w": jnp.zeros(2)}, metrics={"score": score})
    steps = [checkpoint.step for checkpoint in manager.checkpoints]
    manager.close()
    return steps


clean = kept("clean", [0.5, 0.7, 0.6, 0.1])
with_nan = kept("nan", [0.5, 0.7, 0.6, float("nan"), 0.1])
equal = kept("equal", [0.5, 0.7, 0.7, 0.1])
print("orbax-checkpoint", version("orbax-checkpoint"), "BestN(n=1), steps kept")
print("scores 0.5 0.7 0.6 0.1:     expected [1], seen", clean)
print("scores 0.5 0.7 0.6 NaN 0.1: expected [1], seen", with_nan)
print("scores 0.5 0.7 0.7 0.1:     seen", equal)
described = clean == [1] and with_nan == [4] and equal == [2]
print("as described" if described else "the behaviour has changed")
sys.exit(0 if described else 1)
PYTHON
