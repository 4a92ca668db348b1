"""Transfer: a run that starts from another's parameters, with what is new drawn anew, and layers that learn more slowly.

Patterns are regular expressions of a parameter's whole path, as in `head/.*` or `blocks/attention/.*`.
"""

import functools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, PyTree
from ml_collections import ConfigDict

from training import async_sgd, checkpoint, replicas
from training.errors import BadInput
from training.files import read_object
from training.nets import initial
from training.nets.primitives import upcast_to_f32
from training.state import State
from training.transforms import lora
from training.types import AbstractParams, Collections, Params, Rules, Value, Variables


def parent(section: ConfigDict) -> str | None:
    """The identity of the checkpoint that a config's section `init_from` names: "run_id:step"; None where it names none.

    Raises:
      BadInput: there is no such run or checkpoint, or a pattern is no regular expression.
    """
    for pattern in section.reinit:
        _compiled(pattern, "init_from.reinit")
    if not section.run:
        for key in ("step", "reinit"):
            if section[key]:
                raise BadInput(f"init_from.{key}: says how to begin with another run; give init_from.run")
    return identity(section, "init_from")


def located(run: str, model: Mapping[str, object]) -> str:
    """The run directory that `init_from.run` names: itself, or of a sweep directory the run that has the same model.

    Args:
      run: the key's value.
      model: the semantic keys of the section `model`; those that a run of an older version lacks are taken to be equal.
    Raises:
      BadInput: no completed run there has that model, or several have.
    """
    if not run or not (Path(run) / "sweep.json").is_file():
        return run
    found = []
    for result in sorted(Path(run).glob("runs/*/result.json")):
        theirs = read_object(result.parent / "config.json", "model")["model"]
        same = all(theirs.get(key, value) == value for key, value in model.items())
        if same and read_object(result)["status"] == "completed":
            found.append(result.parent)
    if len(found) != 1:
        which = f"{len(found)} completed runs" if found else "no completed run"
        raise BadInput(
            f"init_from.run: the sweep {run} has {which} of this model{': name one of them' if found else ''}"
        )
    return str(found[0])


def tokens_before(section: ConfigDict) -> float:
    """Training tokens behind the parameters that a config's section `init_from` names, its parent's parents' among them."""
    if not section.run:
        return 0.0
    theirs = read_object(Path(section.run) / "config.json", "derived")["derived"]
    step = int(identity(section, "init_from").split(":")[1])  # type: ignore[union-attr]
    per_step = theirs["tokens"] / max(theirs["steps"], 1)  # none in a run that was imported
    return theirs.get("parent_tokens", 0.0) + per_step * step


def trained(params: Params | AbstractParams, rules: Rules) -> int:
    """How many parameters learn: those whose factor is not 0."""
    moved = jax.tree.map(lambda p, f: p.size * np.count_nonzero(f) // f.size, params, lr_multipliers(params, rules))
    return int(sum(jax.tree.leaves(moved)))


def identity(section: ConfigDict, name: str) -> str | None:
    """The identity of the checkpoint of `run` and `step` in a config's section: "run_id:step"; None where it names none.

    Raises:
      BadInput: there is no such run or checkpoint.
    """
    if not section.run:
        return None
    run = Path(section.run)
    if not (run / "config.json").is_file():
        raise BadInput(f"{name}.run: {run} is no run directory")
    steps = checkpoint.saved_steps(run)
    step = max(steps, default=None) if section.step is None else section.step
    if step not in steps:
        raise BadInput(f"{name}.run: {run} has no checkpoint{'' if step is None else f' of step {step}'}")
    return f"{read_object(run / 'config.json', 'task')['derived']['run_id']}:{step}"


def check_shared(config: ConfigDict, facts: Mapping[str, Value]) -> None:
    """Raise BadInput where a run that a config names was trained with another value of these facts."""
    for name in ("init_from", "teacher"):
        run = config[name].run
        there = read_object(Path(run) / "environment.json") if run else {}
        for fact, value in facts.items():
            if run and there.get(fact) != value:
                raise BadInput(f"{name}.run: {run} has the {fact} {there.get(fact)}, and this run {value}")


def check_teacher(section: ConfigDict) -> None:
    """Raise BadInput where a config's section `teacher` asks for what cannot be."""
    identity(section, "teacher")
    if not 0 < section.weight <= 1:
        raise BadInput(f"teacher.weight: must be in (0, 1], got {section.weight}")
    if not 0 < section.temperature < math.inf:
        raise BadInput(f"teacher.temperature: must be positive, got {section.temperature}")


def initialise(state: State, section: ConfigDict, shardings: State, mesh: Mesh) -> State:
    """The state at step 0 with the parameters (their running mean where one was kept) and statistics of another run.

    Args:
      state: as drawn; it is kept where the section names no run.
      section: the config's section `init_from`; parameters and statistics whose path matches one of `reinit` stay as drawn.
      shardings: of the state.
      mesh: where the state lies.
    Raises:
      BadInput: parameters are missing there, or have another shape; or a pattern of `reinit` matches none.
    """
    if not section.run:
        return state
    run, reinit = Path(section.run), [_compiled(pattern, "init_from.reinit") for pattern in section.reinit]
    _check_reinit(reinit, state.params, state.stats)
    part = functools.partial(checkpoint.load_part, run, step=section.step, mesh=mesh)
    kept = part("ema", like=state.params) or part("params", like=state.params)
    drawn = [*reinit, re.compile(lora.OWN)]  # the factors of another run are merged into what they adapt
    params = _taken(state.params, lora.merged(kept), drawn, run)
    stats = _taken(state.stats, part("stats", like=state.stats), reinit, run)
    params, stats = jax.device_put((params, stats), (shardings.params, shardings.stats))
    ema = None if state.ema is None else jax.tree.map(lambda p: jnp.copy(upcast_to_f32(p)), params)
    state = state.replace(params=params, stats=stats, ema=ema)
    for copies, follow in ((state.replicas, replicas.follow), (state.workers, async_sgd.follow)):
        state = state if copies is None else jax.jit(follow, out_shardings=shardings)(state)
    return state


def _taken(ours: Collections, theirs: Collections, reinit: list[re.Pattern[str]], run: Path) -> Collections:
    stored = checkpoint.named(theirs)
    problems, found = [], []
    paths, tree = jax.tree_util.tree_flatten_with_path(ours)
    for path, leaf in paths:
        name = checkpoint.name_of(path)
        other = stored.get(name)
        if any(pattern.fullmatch(name) for pattern in reinit):
            found.append(leaf)
        elif other is None:
            problems.append(f"missing {name}")
        elif other.shape != leaf.shape:
            problems.append(f"{name} is {list(other.shape)} there and {list(leaf.shape)} here")
        else:
            found.append(other.astype(leaf.dtype))
    if problems:
        raise BadInput(
            f"init_from.run: {run} does not fit: {'; '.join(problems)} (what is to be drawn anew: init_from.reinit)"
        )
    return jax.tree.unflatten(tree, found)


def _check_reinit(reinit: list[re.Pattern[str]], *trees: Variables) -> None:
    names = [name for tree in trees for name in checkpoint.named(tree)]
    for pattern in reinit:
        if not any(map(pattern.fullmatch, names)):
            raise BadInput(f"init_from.reinit: no parameter matches {pattern.pattern!r}")


def check_names(config: ConfigDict, model: nn.Module) -> None:
    """Raise BadInput where `init_from.reinit`, `optimizer.lr_multipliers` or `lora.targets` match no parameter.

    Args:
      config: complete.
      model: of the config.
    """
    if config.init_from.reinit or config.optimizer.lr_multipliers or config.lora.rank:
        boxed = dict(initial.abstract(model))
        if config.lora.rank:
            lora.added(boxed["params"], config.lora.targets, lambda name, leaf: {})
        variables = nn.meta.unbox(boxed)
        params = variables.pop("params")
        _check_reinit(
            [_compiled(pattern, "init_from.reinit") for pattern in config.init_from.reinit], params, variables
        )
        lr_multipliers(params, config.optimizer.lr_multipliers)


def check(rules: Iterable[object]) -> None:
    """Raise BadInput where the rules of `optimizer.lr_multipliers` are none."""
    for rule in rules:
        if not isinstance(rule, Sequence) or isinstance(rule, str) or len(rule) != 2 or not isinstance(rule[0], str):
            raise BadInput(f"optimizer.lr_multipliers: want pairs of a pattern and a factor, got {rule!r}")
        _compiled(rule[0], "optimizer.lr_multipliers")
        for factor in rule[1] if isinstance(rule[1], Iterable) else (rule[1],):
            if not isinstance(factor, int | float) or not 0 <= factor < math.inf:
                raise BadInput(f"optimizer.lr_multipliers: {rule[0]!r} wants a factor of at least 0, got {factor!r}")


def lr_multipliers(params: Params | AbstractParams, rules: Rules) -> PyTree[Float[np.ndarray, "..."]]:
    """The factor of each parameter's learning rate: that of the first rule whose pattern matches its path, else 1.

    Args:
      params: a tree of arrays or shapes.
      rules: a factor 0 freezes; several factors are those of the layers of a stack, the leading axis.
    Returns:
      A tree of float32 arrays that broadcast against the parameters.
    Raises:
      BadInput: a rule matches no parameter, or has another number of factors than a stack has layers.
    """
    patterns, used = [(_compiled(pattern, "optimizer.lr_multipliers"), factor) for pattern, factor in rules], set()

    def one(path: jax.tree_util.KeyPath, leaf: Array | jax.ShapeDtypeStruct) -> np.ndarray:
        name = checkpoint.name_of(path)
        for pattern, factor in patterns:
            if pattern.fullmatch(name):
                used.add(pattern)
                values = np.asarray(factor, np.float32)
                if values.ndim and values.shape != leaf.shape[:1]:
                    raise BadInput(
                        f"optimizer.lr_multipliers: {len(values)} factors for {name}, which has "
                        f"{list(leaf.shape)[:1]} layers"
                    )
                return values.reshape(values.shape + (1,) * (leaf.ndim - values.ndim))
        return np.ones((1,) * leaf.ndim, np.float32)

    tree = jax.tree_util.tree_map_with_path(one, params)
    for pattern, _ in patterns:
        if pattern not in used:
            raise BadInput(f"optimizer.lr_multipliers: no parameter matches {pattern.pattern!r}")
    return tree


def _compiled(pattern: str, key: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise BadInput(f"{key}: {pattern!r} is no regular expression ({error})") from None
