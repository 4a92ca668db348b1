"""Checkpoints through Orbax.

A checkpoint is `<run>/checkpoints/<step>/` with three parts: `params`, which load from nothing but the path, `rest`, the
other leaves of the state by their path, and `sums`, a 32-bit checksum of each leaf that is verified when it is restored. The
step is the position in the data too: nothing else is needed to go on. A damaged one is renamed to `<step>.damaged`.
"""

import contextlib
import dataclasses
import errno
import functools
import gc
import logging
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol, TypeVar, runtime_checkable

import jax
import numpy as np
from jax.sharding import Mesh, Sharding
from jaxtyping import Array, PyTree

from training import agreement, checksums, mesh as meshes
from training.errors import BadInput
from training.state import State
from training.types import AbstractParams, Collections, Params

T = TypeVar("T")
Parts = dict[str, PyTree[Array]]  # of a checkpoint
AbstractParts = dict[str, PyTree[jax.ShapeDtypeStruct]]


FOLDER = "checkpoints"
DAMAGED = ".damaged"
CHUNK = (
    1 << 26
)  # bytes that are read at once: what one device saved is read by many without any of them holding it whole
SLICE = 1 << 20  # bytes: several devices that hold one array share in writing it, but in no smaller slices
NO_ROOM = tuple(os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG))


@runtime_checkable
class Stored(Protocol):
    """What is known of an array without its values."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> np.dtype: ...


StoredParts = dict[str, PyTree[Stored]]


class Damaged(BadInput):
    """A checkpoint that is not as it was saved."""


def _orbax() -> ModuleType:
    # Half a second of imports that a command which opens no checkpoint need not pay.
    from orbax.checkpoint import v1

    logging.getLogger("absl").setLevel(logging.CRITICAL)  # its threads log what is raised here as well
    return v1


@contextlib.contextmanager
def _saving(folder: Path) -> Iterator[None]:
    """Leaves nothing half-written of a save that failed, and says in one line where there was no room for it."""
    try:
        yield
    except Exception as error:
        for unfinished in folder.glob("*orbax-checkpoint-tmp*"):
            shutil.rmtree(unfinished, ignore_errors=True)
        found = [text for text in NO_ROOM if text in str(error)]
        if found:
            raise BadInput(f"{folder}: no room for a checkpoint ({found[0]}); whole ones stay as they are") from error
        raise


def rank(score: float, step: int) -> tuple[float, int]:
    """By what one checkpoint, or one evaluation, is better than another: the higher score, and of equal ones the earlier."""
    return score, -step


@dataclasses.dataclass(frozen=True)
class Policy:
    """Which checkpoints are kept: the last ones, the best ones, and those that were marked when they were saved.

    Attributes:
      last: how many of the last.
      best: how many of the best, by `rank`.
    """

    last: int
    best: int

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """As Orbax asks: for each checkpoint, in order of steps, whether it is kept."""
        del context
        metrics = [info.metrics or {} for info in checkpoints]
        scored = [i for i, values in enumerate(metrics) if "score" in values]
        ranked = sorted(scored, key=lambda i: rank(metrics[i]["score"], checkpoints[i].step), reverse=True)
        kept = {*range(len(checkpoints))[-self.last :], *ranked[: self.best]}
        return [i in kept or bool(values.get("marked")) for i, values in enumerate(metrics)]


class Checkpoints:
    """The checkpoints of one run, saved asynchronously.

    Errors of an asynchronous save are raised at the next save, or at `close`: BadInput where there is no room for it.

    Args:
      run: its directory.
      keep_last: how many of the last are kept, at least one.
      keep_best: how many of the best.
      keep_every: also the first one at or after each multiple of so many steps; 0: none.
    """

    def __init__(self, run: Path, keep_last: int = 1, keep_best: int = 0, keep_every: int = 0):
        ocp = _orbax()
        folder = (run / FOLDER).absolute()  # Orbax refuses relative paths
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._keep_every = folder, keep_every
        saving = ocp.options.ArrayOptions.Saving
        arrays = saving(
            min_slice_bytes_for_replica_parallel=SLICE, storage_options=saving.StorageOptions(chunk_byte_size=CHUNK)
        )
        self._manager = ocp.training.Checkpointer(
            folder,
            context=ocp.Context(array_options=ocp.options.ArrayOptions(saving=arrays)),
            preservation_policy=Policy(max(keep_last, 1), keep_best),
            cleanup_tmp_directories=jax.process_count() == 1,
        )
        self._pending: Any = None

    def latest(self) -> int | None:
        """The step of the newest whole checkpoint."""
        newest = self._manager.latest
        return None if newest is None else newest.step

    def save(self, step: int, state: State, score: float | None = None, marked: bool = False) -> None:
        """Start saving; returns once the arrays are copied. A step that is there already is left alone.

        Args:
          step: of the checkpoint.
          state: of the run.
          score: the best are those of the highest one; what has none is never among them.
          marked: whether it is kept whatever comes later.
        """
        self.wait()
        previous = self.latest()
        if previous == step:
            return
        metrics: dict[str, float] = {} if score is None else {"score": score}
        if marked or (self._keep_every and step // self._keep_every > (previous or 0) // self._keep_every):
            metrics["marked"] = 1
        with _saving(self._folder):
            self._pending = self._manager.save_checkpointables_async(
                step, _summed(_parts(state)), metrics=metrics or None, force=True
            )

    def wait(self) -> None:
        """Wait for the save under way; raises what went wrong in it."""
        pending, self._pending = self._pending, None
        if pending is not None:
            with _saving(self._folder):
                pending.result()

    def newest(self, abstract: State, shardings: State) -> tuple[int, State | None]:
        """The newest checkpoint that is as it was saved: its step and state; 0 and None where there is none.

        Those found damaged on the way are put aside. Over many hosts they are an error: each sees only its own part.

        Raises:
          BadInput: a checkpoint is of another model.
        """
        while (step := agreement.of_first("checkpoints", self.latest)) is not None:
            try:
                return step, self.restore(step, abstract, shardings)
            except Damaged as error:
                if jax.process_count() > 1:
                    raise
                if _is_whole(self._folder / str(step)):
                    raise BadInput(f"{error}, on these devices: read by one of them it is whole") from error
                warnings.warn(f"{error}; it is put aside", stacklevel=2)
                aside = self._folder / f"{step}{DAMAGED}"
                shutil.rmtree(aside, ignore_errors=True)  # of a time before
                os.replace(self._folder / str(step), aside)
                self._manager.reload()
        return 0, None

    def drop_after(self, step: int) -> None:
        """Delete the checkpoints of later steps."""
        self.wait()

        def delete() -> None:
            for later in saved_steps(self._folder.parent):
                if later > step:
                    shutil.rmtree(self._folder / str(later))

        agreement.of_first("checkpoints", delete)
        self._manager.reload()

    def restore(self, step: int, abstract: State, shardings: State) -> State:
        """The state of one step, as `restored` reads it."""
        return restored(Path(self._manager.directory) / str(step), abstract, shardings)

    def close(self) -> None:
        """Finish the save under way and release the folder."""
        try:
            self.wait()
        finally:
            with _saving(self._folder):
                self._manager.close()


def restored(path: Path, abstract: State, shardings: State) -> State:
    """The state of a checkpoint without a teacher, laid out by `shardings`, which may belong to another mesh than before.

    Args:
      path: of the checkpoint.
      abstract: shapes of the state.
      shardings: of the state.
    Raises:
      Damaged: it is not as it was saved.
      BadInput: its leaves are not those of `abstract` (all are named).
    """
    abstract, shardings = abstract.replace(teacher=None), shardings.replace(teacher=None)
    wanted = _parts(jax.tree.map(_with_sharding, abstract, shardings))
    together = functools.partial(agreement.all_succeed, f"checkpoint of step {path.name}")
    with together():
        stored = _metadata(path)
        _compare(path, wanted, stored)
    parts = _load(path, wanted, stored, meshes.replicated(jax.tree.leaves(wanted)[0].sharding.mesh), together())
    leaves = {**named(parts["params"], "params/"), **parts["rest"]}
    paths, structure = jax.tree_util.tree_flatten_with_path(abstract)
    return jax.tree.unflatten(structure, [leaves[name_of(key)] for key, _ in paths])


def load_params(
    run: Path,
    step: int | None = None,
    mesh: Mesh | None = None,
    name: str = "params",
    like: PyTree[Array] | AbstractParams | None = None,
) -> Params:
    """The parameters of a run, from nothing but its path.

    Args:
      run: a run directory.
      step: of the checkpoint; the newest by default.
      mesh: where to put them, whole on every device; by default the first device.
      name: "params", or "ema" where the run kept a running mean.
      like: arrays, real or abstract, by whose shardings those of the same name and shape are laid out as they are read.
    Raises:
      BadInput: there is no such checkpoint, or it is damaged.
    """
    found = load_part(run, name, step, mesh, like)
    if not found:
        raise BadInput(f"the run {run} kept no {name!r}")
    return found


def load_part(
    run: Path,
    name: str,
    step: int | None = None,
    mesh: Mesh | None = None,
    like: PyTree[Array] | AbstractParams | None = None,
) -> Collections:
    """One part of a run's state, "params", "ema" or "stats"; {} where the run kept none. Arguments as in `load_params`."""
    steps = saved_steps(run)
    if not steps:
        raise BadInput(f"no checkpoint in {run / FOLDER}")
    chosen = max(steps) if step is None else step
    if chosen not in steps:
        raise BadInput(f"no checkpoint of step {chosen} in {run / FOLDER} (there are: {', '.join(map(str, steps))})")
    path = (run / FOLDER / str(chosen)).absolute()
    whole = meshes.replicated(mesh) if mesh else jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    stored, targets = _metadata(path), {} if like is None else named(like)

    def placed(key: str, leaf: Stored) -> jax.ShapeDtypeStruct:
        target = targets.get(key)
        if target is None or tuple(target.shape) != tuple(leaf.shape):
            return _abstract(leaf, whole)
        return _abstract(leaf, target.sharding)

    if name == "params":
        params = jax.tree_util.tree_map_with_path(lambda key, leaf: placed(name_of(key), leaf), stored["params"])
        return _load(path, {"params": params}, stored, whole)["params"]
    prefix = f"{name}/"
    wanted = {
        key: placed(key.removeprefix(prefix), leaf) if key.startswith(prefix) else _orbax().PLACEHOLDER
        for key, leaf in stored["rest"].items()
    }
    if not any(key.startswith(prefix) for key in wanted):
        return {}
    leaves = _load(path, {"rest": wanted}, stored, whole)["rest"]
    return nested({key.removeprefix(prefix): leaf for key, leaf in leaves.items() if key.startswith(prefix)})


def saved_steps(run: Path) -> list[int]:
    """The steps of the whole checkpoints of a run, in order."""
    folder = run / FOLDER
    names = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
    return sorted(int(name) for name in names if name.isdigit())


def damaged_steps(run: Path) -> list[int]:
    """The steps of the checkpoints of a run that were found damaged and put aside, in order."""
    return sorted(int(path.name.removesuffix(DAMAGED)) for path in (run / FOLDER).glob(f"*{DAMAGED}"))


def _parts(state: State) -> Parts | AbstractParts:
    return {
        "params": state.params,
        "rest": {name: leaf for name, leaf in named(state).items() if not name.startswith(("params/", "teacher/"))},
    }


def _summed(parts: Parts) -> Parts:
    return {**parts, "sums": {name: checksums.sums(tree) for name, tree in parts.items()}}


def named(tree: PyTree[T], prefix: str = "") -> dict[str, T]:
    """The leaves of a tree by their path, as in "blocks/mlp/up/kernel"."""
    return {prefix + name_of(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def name_of(path: jax.tree_util.KeyPath) -> str:
    """The name of a leaf from its path."""
    return "/".join(str(getattr(e, "key", getattr(e, "name", getattr(e, "idx", e)))) for e in path)


def nested(flat: Mapping[str, T]) -> dict[str, PyTree[T]]:
    tree: dict[str, PyTree[T]] = {}
    for name, leaf in flat.items():
        *folders, last = name.split("/")
        node = tree
        for folder in folders:
            node = node.setdefault(folder, {})
        node[last] = leaf
    return tree


def _with_sharding(leaf: jax.ShapeDtypeStruct, sharding: jax.sharding.Sharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _abstract(stored: Stored, sharding: jax.sharding.Sharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(stored.shape, stored.dtype, sharding=sharding)


def _metadata(path: Path) -> StoredParts:
    try:
        stored = _orbax().checkpointables_metadata(path).metadata
        parts = {"params": stored["params"], "rest": stored["rest"]}
        parts |= {"sums": stored["sums"]} if "sums" in stored else {}  # there were none at first
    except Exception as error:
        raise Damaged(f"checkpoint {path}: not readable as a checkpoint of a run ({type(error).__name__})") from error
    for name, tree in parts.items():
        if tree is None:
            raise Damaged(f"checkpoint {path}: damaged, the structure of {name} cannot be read")
    return parts


def _load(
    path: Path,
    wanted: AbstractParts,
    stored: StoredParts,
    whole: Sharding,
    reading: contextlib.AbstractContextManager[None] = contextlib.nullcontext(),  # noqa: B008 - it has no state
) -> Parts:
    """The wanted parts of a checkpoint, found to be as they were saved; what is no array in `wanted` is not read.

    Args:
      path: of the checkpoint.
      wanted: parts.
      stored: its metadata.
      whole: where the checksums are put.
      reading: held while files are read.
    """
    told = jax.tree.map(lambda s: _abstract(s, whole), {"sums": stored["sums"]}) if "sums" in stored else {}
    with reading:
        parts = _read(path, wanted | told)
    expected = parts.pop("sums", {})
    for name, tree in parts.items():
        read = [i for i, leaf in enumerate(jax.tree.leaves(wanted[name])) if isinstance(leaf, jax.ShapeDtypeStruct)]
        leaves = [jax.tree.leaves(tree)[i] for i in read]
        if name in expected and not np.array_equal(checksums.sums(leaves), np.asarray(expected[name])[read]):
            raise Damaged(f"checkpoint {path}: damaged, its {name} are not those that were saved")
    return parts


def _is_whole(path: Path) -> bool:
    """Whether a checkpoint can be read by one device, and is as it was saved."""
    try:
        stored, where = _metadata(path), jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        parts = {name: stored[name] for name in ("params", "rest")}
        _load(path, jax.tree.map(lambda leaf: _abstract(leaf, where), parts), stored, where)
    except Damaged:
        return False
    return True


def _read(path: Path, wanted: AbstractParts) -> Parts:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        try:
            return jax.block_until_ready(_orbax().load_checkpointables(path, wanted))
        except Exception as error:
            failure = type(error).__name__
        gc.collect()  # Orbax leaves coroutines behind, which Python would complain of later
    raise Damaged(f"checkpoint {path}: damaged, its arrays cannot be read ({failure})")


def _compare(path: Path, wanted: AbstractParts, stored: StoredParts) -> None:
    """Raise with every leaf that is missing, extra or of another shape or type."""
    ours = {**named(wanted["params"], "params/"), **wanted["rest"]}
    theirs = {**named(stored["params"], "params/"), **stored["rest"]}
    problems = [f"missing {name}" for name in sorted(ours.keys() - theirs.keys())]
    problems += [f"extra {name}" for name in sorted(theirs.keys() - ours.keys())]
    for name in sorted(ours.keys() & theirs.keys()):
        a, b = ours[name], theirs[name]
        if tuple(a.shape) != tuple(b.shape) or a.dtype != b.dtype:
            problems.append(f"mismatched {name} ({b.dtype}{list(b.shape)} saved, {a.dtype}{list(a.shape)} wanted)")
    if problems:
        raise BadInput(f"checkpoint {path} is of another model: {'; '.join(problems)}")
