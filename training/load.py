"""What a run's directory holds of its model: its config, and the parameters that it computes with."""

import functools
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from training import checkpoint, identity, mesh as meshes, optimizer, transforms
from training.config import complete, fill
from training.errors import BadInput
from training.files import read_object
from training.nets.primitives import upcast_to_f32
from training.state import State
from training.task import resolve as family_of
from training.transforms import lora
from training.types import AbstractParams, Params, Variables


def config_of(run: Path) -> ConfigDict:
    """The resolved config of a run, with defaults for keys that did not exist when it was made.

    Raises:
      BadInput: it is no run directory, or its config has a key that there is no more.
    """
    path = run / "config.json"
    if not path.is_file():
        raise BadInput(f"{run}: no run directory (isoflop train --config=FILE --workdir={run} makes one)")
    stored = ConfigDict(read_object(path, "task", "derived"))
    derived = stored.derived
    identity.check_schema(derived, str(path))
    del stored.derived
    config = complete(stored, str(path))
    with config.unlocked():
        config.derived = derived
        if set(config.model) - set(stored.get("model", config.model)):
            size, config.model.size = config.model.get("size"), None  # it has become a shape
            fill(config.model, family_of(config.task).shape_for(config))
            config.model.size = size
    return config


def parameters(
    run: Path, config: ConfigDict, variables: Variables, step: int | None = None, mesh: Mesh | None = None
) -> Params:
    """The parameters of a checkpoint, their running mean where one was kept, low-rank factors merged, rounded where
    the run rounds them.

    Args:
      run: a run directory.
      config: of the run, resolved.
      variables: of its model, boxed with their logical axes; abstract.
      step: of the checkpoint; the newest by default.
      mesh: where to put them, split by their logical axes as they are read; by default the first device.
    Raises:
      BadInput: there is no such checkpoint, or it is damaged.
    """
    like = None if mesh is None else _abstract(variables["params"], mesh)
    params = lora.merged(
        checkpoint.load_part(run, "ema", step, mesh, like) or checkpoint.load_params(run, step, mesh, like=like)
    )
    return _rounded(params, config, variables)


def average(
    run: Path, config: ConfigDict, variables: Variables, count: int, step: int | None = None, mesh: Mesh | None = None
) -> tuple[Params, list[int]]:
    """The uniform average of the parameters of the last checkpoints that a run kept, and their steps.

    Args:
      run: a run directory.
      config: of the run, resolved.
      variables: of its model, boxed with their logical axes; abstract.
      count: checkpoints.
      step: of the last of them; the newest by default.
      mesh: as in `parameters`.
    Raises:
      BadInput: there are fewer checkpoints, one is damaged, or the model keeps running statistics, which have no average.
    Source: Kaddour 2022, "Stop wasting my time! Saving days of ImageNet and BERT training with latest weight averaging",
      arXiv 2209.14981.
    """
    if count < 2:
        raise BadInput(f"--average: of 2 checkpoints or more, got {count}")
    if set(variables) - {"params", "teacher"}:
        raise BadInput("--average: the model keeps statistics of batches, which an average of parameters has not seen")
    kept = [one for one in sorted(checkpoint.saved_steps(run)) if step is None or one <= step]
    if len(kept) < count:
        raise BadInput(
            f"--average: {run} has {len(kept)} checkpoints{'' if step is None else f' up to {step}'}, not {count}"
        )
    like = None if mesh is None else _abstract(variables["params"], mesh)
    total: Params | None = None
    for one in kept[-count:]:
        params = lora.merged(checkpoint.load_params(run, one, mesh, like=like))
        wide = jax.tree.map(upcast_to_f32, params)
        total = wide if total is None else jax.tree.map(jnp.add, total, wide)
    mean = jax.tree.map(lambda t, p: (t / count).astype(p.dtype), total, params)
    return _rounded(mean, config, variables), kept[-count:]


def _rounded(params: Params, config: ConfigDict, variables: Variables) -> Params:
    """Parameters as the run computes with them."""
    transform, axes = transforms.of(config), optimizer.axes_of(variables["params"])
    if transform.quantize is None:
        return params
    return jax.jit(functools.partial(transforms.forward_params, transform, axes=axes))(
        params, hyper=transforms.hyper(config)
    )


def _abstract(boxed: AbstractParams, mesh: Mesh) -> AbstractParams:
    """Boxed parameters as shapes with the shardings that they have on a mesh."""
    place = lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where)
    return jax.tree.map(place, nn.meta.unbox(boxed), meshes.shardings(boxed, mesh))


def teacher(state: State, config: ConfigDict, variables: Variables, shardings: State, mesh: Mesh) -> State:
    """The state with the parameters of the teacher that a config names; as it is where it names none.

    Args:
      state: of a run.
      config: of the run, resolved.
      variables: of the model, boxed and abstract; those of the teacher are among them.
      shardings: of the state.
      mesh: where the state lies.
    Raises:
      BadInput: the teacher has other parameters than its config says.
    """
    if not config.teacher.run:
        return state
    run = Path(config.teacher.run)
    params = parameters(run, config_of(run), {"params": variables["teacher"]}, config.teacher.step, mesh)
    return state.replace(teacher=jax.device_put(params, shardings.teacher))
