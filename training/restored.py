"""The parameters that the model of a run computes with, from the run's directory."""

import functools
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from training import checkpoint, optimizer, transforms


def parameters(run: Path, config: Any, variables: Any, step: int | None = None, mesh: Mesh | None = None) -> Any:
    """The parameters of a checkpoint, their running mean where one was kept, rounded where the run rounds them.

    Args:
      run: a run directory.
      config: of the run, resolved.
      variables: of its model, boxed with their logical axes; abstract.
      step: of the checkpoint; the newest by default.
      mesh: where to put them, whole on every device; by default the first device.
    Raises:
      BadInput: there is no such checkpoint, or it is damaged.
    """
    params = checkpoint.load_part(run, "ema", step, mesh) or checkpoint.load_params(run, step, mesh)
    found, axes = transforms.of(config), optimizer.axes_of(variables["params"])
    if found.quantize is None:
        return params
    return jax.jit(functools.partial(transforms.effective, found, axes=axes))(params, hyper=transforms.hyper(config))
