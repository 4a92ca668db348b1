"""A model as a program that runs without this package: StableHLO by `jax.export`, and its weights beside it.

The folder of an artifact holds `model.stablehlo` (bytes of `jax.export.Exported.serialize`), `weights.npz` (arrays by the
path of a parameter; plain NumPy, no pickles) and `export.json` (what it was made from, and what goes in and out). How it is
loaded stands in `isoflop export --help`.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import export as jax_export

from training import cache, checkpoint
from training.errors import BadInput
from training.files import write_json
from training.task import Forward
from training.types import Collections, Params, Record

PROGRAM, WEIGHTS, RECORD = "model.stablehlo", "weights.npz", "export.json"
PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


def check_platforms(platforms: Sequence[str]) -> None:
    """Raise BadInput where one of the names of platforms is none."""
    for name in platforms:
        if name not in PLATFORMS:
            raise BadInput(f"--platforms: {name!r} is not one of {', '.join(PLATFORMS)}")
    if not platforms:
        raise BadInput(f"--platforms: name some of {', '.join(PLATFORMS)}")


def program(
    forward: Forward, params: Params, stats: Collections, platforms: Sequence[str], matmul: str = "default"
) -> tuple[jax_export.Exported, dict[str, np.ndarray]]:
    """The exported function `(weights, *inputs) -> logits`, and the weights.

    Args:
      forward: the model.
      params: its parameters, as it computes with them.
      stats: its other collections.
      platforms: names in `PLATFORMS`.
      matmul: the precision of products, as `config.precision.matmul`.
    """
    check_platforms(platforms)
    variables = {"params": params, **stats}
    leaves, structure = jax.tree_util.tree_flatten_with_path(variables)
    names = [checkpoint.name_of(path) for path, _ in leaves]
    weights = {name: _plain(np.asarray(leaf)) for name, (_, leaf) in zip(names, leaves, strict=True)}
    dtypes = {name: leaf.dtype for name, (_, leaf) in zip(names, leaves, strict=True)}

    def call(weights: dict[str, jax.Array], *inputs: jax.Array) -> jax.Array:
        found = structure.unflatten([weights[name].astype(dtypes[name]) for name in names])
        params = found.pop("params")
        return forward.apply(params, found, *inputs)

    given = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), weights)
    with jax.default_matmul_precision(None if matmul == "default" else matmul):
        exported = jax_export.export(jax.jit(call), platforms=tuple(platforms))(given, *_arguments(forward))
    return exported, weights


def save(folder: Path, exported: jax_export.Exported, weights: dict[str, np.ndarray], record: Record) -> None:
    """Write an artifact into a folder; `record` is what `export.json` says of where it comes from.

    Args:
      folder: an empty one.
    """
    (folder / PROGRAM).write_bytes(exported.serialize())
    np.savez(folder / WEIGHTS, allow_pickle=False, **weights)  # type: ignore[arg-type]
    files = {name: cache.sha256(folder / name) for name in (PROGRAM, WEIGHTS)}
    versions = {"jax": jax.__version__, "calling_convention": exported.calling_convention_version}
    write_json(folder / RECORD, {**record, "versions": versions, "platforms": exported.platforms, "sha256": files})


def described(forward: Forward, exported: jax_export.Exported) -> dict[str, Any]:
    """What goes in and comes out of a program, for its record; letters in a shape are sizes that are open."""
    (out,) = exported.out_avals
    return {
        "inputs": [dataclasses.asdict(entry) for entry in forward.inputs],
        "bounds": forward.bounds,
        "output": {"axes": forward.output, "dtype": str(out.dtype), "shape": [_size(size) for size in out.shape]},
        **forward.facts,
    }


def _size(size: Any) -> int | str:
    return int(size) if isinstance(size, int) else str(size)


def _arguments(forward: Forward) -> list[jax.ShapeDtypeStruct]:
    """The inputs as abstract arrays, whose symbols are of one scope."""
    scope = jax_export.SymbolicScope(forward.bounds)
    return [
        jax.ShapeDtypeStruct(
            jax_export.symbolic_shape(",".join(map(str, entry.shape)), scope=scope), np.dtype(entry.dtype)
        )
        for entry in forward.inputs
    ]


def _plain(leaf: np.ndarray) -> np.ndarray:
    """In a dtype of NumPy's own, which holds every value of a shorter one: others are no part of the file format."""
    return leaf if leaf.dtype.kind in "biuf" and leaf.dtype.isbuiltin == 1 else leaf.astype(np.float32)
