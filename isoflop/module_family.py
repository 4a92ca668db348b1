"""A family of models made of a Flax module of somebody else's: what `isoflop.sweep` registers with the engine.

The engine trains it as any family of ours: what it asks of one (`training.task.Family`) is counted from the module, its
loss and a batch, from shapes alone.
"""

import dataclasses
import functools
import inspect
import itertools
import math
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree
from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from training import task
from training.cost import Cost, count_products
from training.errors import BadInput
from training.types import Batch, Collections, HostScalars, Loss, Option, Outputs, Params, Record, Scalars, Variables

LossFunction = Callable[..., jax.Array]  # (module, batch) -> a loss, or one of each example, or of each of its tokens
HELD_OUT_FROM = 1_000_000_000  # the step from which on a function of the step is evaluated: no run trains so long
DEFAULT_BATCH_SIZE = 32


class Batches:
    """Training and held-out batches, by their numbers.

    Args:
        source: a pure function (step, batch_size) -> batch, or a function without arguments that returns a new iterable of
            batches; a batch is any tree of arrays whose first axis is the batch.
        batch_size: examples of a batch; None: `DEFAULT_BATCH_SIZE`, or what the iterable holds.
        held_out: where evaluation batches come from, as `source`; None: from the same source, from step `HELD_OUT_FROM` of
            a function, and the first ones of an iterable, which are then not trained on.
        evaluated: how many batches are held out.

    Raises:
        BadInput: a source takes other arguments, or its batches are no arrays of one size.
    """

    def __init__(self, source: Callable, batch_size: int | None, held_out: Callable | None, evaluated: int):
        self._is_function = _takes("batches", source) == 2
        size = (batch_size or DEFAULT_BATCH_SIZE) if self._is_function else batch_size
        first = _Numbered("batches", source, size)
        example = first(0)
        leaves, self.treedef = jax.tree.flatten(example)
        sizes = [len(leaf) if np.ndim(leaf) else 0 for leaf in leaves]
        if len({*sizes}) != 1 or sizes[0] != (size or sizes[0]) or not sizes[0]:
            raise BadInput(f"batches: the first axis of every array must be the batch, and they have {sizes}")
        self.batch_size = sizes[0]
        self.shapes = tuple((leaf.shape[1:], str(leaf.dtype)) for leaf in map(np.asarray, leaves))
        self.evaluated = evaluated
        self._skipped = 0 if self._is_function or held_out is not None else evaluated
        self._training = first
        self._held_out = _Numbered("held_out", held_out or source, size)
        self._held_out_from = HELD_OUT_FROM if self._is_function and held_out is None else 0

    def training(self, k: int) -> dict[str, np.ndarray]:
        """Training batch k."""
        return self._named(self._training(k + self._skipped))

    def held_out(self, i: int) -> dict[str, np.ndarray]:
        """Held-out batch i."""
        return self._named(self._held_out(self._held_out_from + i))

    def _named(self, batch: PyTree) -> dict[str, np.ndarray]:
        leaves, treedef = jax.tree.flatten(batch)
        arrays = [np.asarray(leaf) for leaf in leaves]
        wanted = tuple((self.batch_size, *shape) for shape, _ in self.shapes)
        if treedef != self.treedef or tuple(array.shape for array in arrays) != wanted:
            shapes = ", ".join(str(array.shape) for array in arrays)
            raise BadInput(f"batches: a batch has arrays of the shapes {shapes}, the first one had {wanted}")
        return dict(zip(leaf_names(len(arrays)), arrays, strict=True))


class _Numbered:
    """A source of batches, by number; an iterable is read on from where it was, and anew for an earlier batch."""

    def __init__(self, name: str, source: Callable, batch_size: int | None):
        self._name, self._source, self._size = name, source, batch_size
        self._is_function = _takes(name, source) == 2
        self._position, self._iterator, self._lock = 0, iter(()), threading.Lock()

    def __call__(self, k: int) -> PyTree:
        if self._is_function:
            return self._source(k, self._size)
        with self._lock:
            if k < self._position or not self._position:
                self._position, self._iterator = 0, iter(self._source())
            batch = next(itertools.islice(self._iterator, k - self._position, None), None)
            self._position = k + 1
        if batch is None:
            raise BadInput(
                f"{self._name}: the iterable ends before batch {k}: let it go on without end, or lower budgets"
            )
        return batch


def _takes(name: str, source: Callable) -> int:
    """How many arguments a source of batches must be given: 2 or none."""
    if not callable(source):
        raise BadInput(
            f"{name}: a function (step, batch_size) -> batch, or one without arguments that returns an iterable"
        )
    needed = [
        p for p in inspect.signature(source).parameters.values() if p.default is p.empty and p.kind < p.VAR_POSITIONAL
    ]
    if len(needed) not in (0, 2):
        raise BadInput(f"{name}: takes (step, batch_size), or nothing; this function takes {len(needed)} arguments")
    return len(needed)


def leaf_names(count: int) -> list[str]:
    """Names of the arrays of a batch, as the engine knows them."""
    return [f"leaf_{i:03d}" for i in range(count)]


@dataclasses.dataclass(frozen=True)
class ModuleModel:
    """A module and its loss as the engine's model (`training.task.Model`).

    Attributes:
        module: of one width.
        loss_of: (module, batch) -> a loss, or one of each example, or of each token of each.
        treedef: of a batch.
        shapes: shape and dtype of each array of a batch, without the batch.
        takes_train: whether the loss has an argument `train`.
    """

    module: nn.Module
    loss_of: LossFunction
    treedef: Any
    shapes: tuple[tuple[tuple[int, ...], str], ...]
    takes_train: bool

    def init(self, key: jax.Array, hyper: HostScalars) -> Variables:
        """The variables, each boxed with logical axes by its name and rank."""
        del hyper
        zeros = [jnp.zeros((1, *shape), dtype) for shape, dtype in self.shapes]
        rngs = dict(zip(("params", "dropout"), jax.random.split(key), strict=True))
        variables = nn.init(self._function(False), self.module)(rngs, jax.tree.unflatten(self.treedef, zeros))
        plain = nn.meta.unbox({name: tree for name, tree in variables.items() if name != "intermediates"})
        return jax.tree_util.tree_map_with_path(
            lambda path, leaf: nn.LogicallyPartitioned(leaf, _axes(path, leaf.ndim)), plain
        )

    def loss(self, params: Params, stats: Collections, batch: Batch, key: jax.Array, hyper: Scalars) -> Loss:
        """Losses summed over examples and tokens, and how many they are."""
        del hyper
        values, changed = self.values(params, stats, batch, key)
        count = next(iter(batch.values())).shape[0] if values.ndim == 0 else values.size
        total = values * count if values.ndim == 0 else values.sum()
        return total, ({"loss": total, "weight": jnp.float32(count)}, changed)

    def score(self, params: Params, stats: Collections, batch: Batch) -> Outputs:
        """The mean loss of each example."""
        one_loss = lambda rows: self.values(params, stats, rows, None)[0]
        if jax.eval_shape(one_loss, batch).ndim == 0:  # of a batch: each example is a batch of its own
            return jax.vmap(lambda row: one_loss({name: array[None] for name, array in row.items()}))(batch)
        losses = one_loss(batch)
        return losses.reshape(losses.shape[0], -1).mean(axis=1)

    def values(
        self, params: Params, stats: Collections, batch: Batch, key: jax.Array | None
    ) -> tuple[Float[Array, "..."], Collections]:
        """What the loss function returns, and the module's other collections after it.

        Args:
            params: parameters.
            stats: other collections.
            batch: arrays by `leaf_names`.
            key: of what is drawn in training; None: an evaluation, which draws and changes nothing.
        """
        arrays = [batch[name] for name in leaf_names(len(self.shapes))]
        variables, tree = {"params": params, **stats}, jax.tree.unflatten(self.treedef, arrays)
        function = self._function(key is not None)
        rngs = None if key is None else {"dropout": key}
        if key is None or not stats:
            return nn.apply(function, self.module)(variables, tree, rngs=rngs), stats  # type: ignore[return-value]
        values, changed = nn.apply(function, self.module, mutable=list(stats))(variables, tree, rngs=rngs)
        return values, {**stats, **changed}  # type: ignore[return-value]

    def _function(self, train: bool) -> Callable[..., jax.Array]:
        return functools.partial(self.loss_of, train=train) if self.takes_train else self.loss_of


def _axes(path: tuple[Any, ...], rank: int) -> tuple[str | None, ...]:
    """Logical axes of a variable: tables of Flax's Embed over the vocabulary, matrices by their last two axes."""
    collection, name = path[0].key, path[-1].key
    if collection != "params" or rank < 2:
        return (None,) * rank
    return (None,) * (rank - 2) + (("vocab", "embed") if name == "embedding" else ("embed", "mlp"))


class Counted(NamedTuple):
    """What is counted of one width: its cost, and whether its loss is one number for the batch."""

    cost: Cost
    shape: tuple[int, ...]


class ModuleFamily:
    """The family (`training.task.Family`) of a module that is a function of its width.

    Args:
        name: under which it is registered, the `task` of its configs.
        label: the column `family` of its records.
        make: width -> module.
        batches: its data.
        loss: (module, batch) -> losses; with an argument `train`, it is told whether it trains.
        fingerprint: hash of what makes its losses, a part of each run's identity.
    """

    INDIFFERENT: tuple[str, ...] = ("model.size",)
    INHERITED: tuple[str, ...] = ()
    INPUTS: tuple[str, ...] = ()
    RENAMED: Mapping[str, str] = {}
    UNIT = "tokens"

    def __init__(
        self,
        name: str,
        label: str,
        make: Callable[[int], nn.Module],
        batches: Batches,
        loss: LossFunction,
        fingerprint: str,
    ):
        self.name, self._label, self._make, self._loss = name, label, make, loss
        self.batches, self._fingerprint = batches, fingerprint
        self._takes_train = "train" in inspect.signature(loss).parameters
        self._counted: dict[int, Counted] = {}

    def model(self, width: int) -> ModuleModel:
        """The model of a width.

        Raises:
            BadInput: what makes the module returns something else.
        """
        module = self._make(width)
        if not isinstance(module, nn.Module):
            raise BadInput(f"module: {self._label}({width}) is no flax.linen.Module but a {type(module).__name__}")
        return ModuleModel(module, self._loss, self.batches.treedef, self.batches.shapes, self._takes_train)

    def counted(self, width: int) -> Counted:
        """Parameters, and products of the jaxprs of the loss and of its gradient, of one width."""
        if width not in self._counted:
            self._counted[width] = self._count(width)
        return self._counted[width]

    def _count(self, width: int) -> Counted:
        model, size = self.model(width), self.batches.batch_size
        variables = nn.meta.unbox(jax.eval_shape(model.init, jax.random.key(0), {}))
        params = variables.pop("params")
        batch = {
            name: jax.ShapeDtypeStruct((size, *shape), dtype)
            for name, (shape, dtype) in zip(leaf_names(len(self.batches.shapes)), self.batches.shapes, strict=True)
        }
        values = lambda *arguments: model.values(*arguments)[0]
        shape = jax.eval_shape(values, params, variables, batch, jax.random.key(0)).shape
        if shape and shape[0] != size:
            raise BadInput(f"loss: returns the shape {shape} for {size} examples: one number, or (batch, ...)")
        total = lambda params, stats, batch, key: model.loss(params, stats, batch, key, {})[0]
        key = jax.random.key(0)
        try:
            forward = count_products(jax.make_jaxpr(total)(params, variables, batch, key)) / size
            training = count_products(jax.make_jaxpr(jax.grad(total))(params, variables, batch, key)) / size
        except ValueError as error:
            raise BadInput(f"module: its FLOPs cannot be counted: {error}") from error
        if not forward:
            raise BadInput(f"module: {self._label}({width}) multiplies no matrices, so that it has no FLOPs to budget")
        leaves = jax.tree_util.tree_leaves_with_path(params)
        components = {"/".join(str(part.key) for part in path): math.prod(leaf.shape) for path, leaf in leaves}
        embedding = tuple(name for name in components if name.rpartition("/")[2] == "embedding")
        one = {self._label: forward}
        cost = Cost(components, embedding, one, one, max(math.prod(shape[1:]), 1), from_data=3 * forward - training)
        return Counted(cost, shape)

    def defaults(self) -> ConfigDict:
        """The sections of the family; the fingerprint stands in the section of the data."""
        return ConfigDict(
            {
                "model": {"name": self._label, "size": placeholder(float), "width": placeholder(int)},
                "data": {"fingerprint": ""},
                "evaluation": {"batches": self.batches.evaluated, "batch_size": self.batches.batch_size},
            }
        )

    def model_options(self, name: str | None) -> Mapping[str, Option]:
        """A module is read by its width."""
        return {"width": None} if name == self._label else {}

    def shape_for(self, config: ConfigDict) -> dict[str, Option]:
        """The width is always given."""
        if config.model.width is None:
            raise BadInput("model.width: is missing")
        return {}

    def validate(self, config: ConfigDict) -> None:
        """Refuse what was planned for another module, loss or data."""
        if config.data.fingerprint not in ("", self._fingerprint):
            raise BadInput("data.fingerprint: the module, its loss or its batches have changed since this was planned")

    def scaled_hparams(self, config: ConfigDict, n: int, d: float) -> task.Hyperparameters:
        """What a config leaves open: `isoflop.sweep` leaves nothing."""
        del config, n, d
        return {"batch_size": self.batches.batch_size, "learning_rate": 3e-3, "warmup_steps": 0}

    def cost(self, config: ConfigDict) -> Cost:
        """Parameters and FLOPs, counted."""
        return self.counted(config.model.width).cost

    def available(self, config: ConfigDict) -> int | None:
        """Functions and iterables do not say how many examples they have."""
        del config
        return None

    def prepare(self, config: ConfigDict, verify: bool) -> Record:
        """There is nothing to prepare."""
        raise BadInput("data: batches of a function are made as they are read")

    def build(self, config: ConfigDict) -> task.Task:
        """The task of a resolved config."""
        self.validate(config)
        return ModuleTask(self, config)  # type: ignore[return-value]

    def stand_in(self, config: ConfigDict) -> ConfigDict:
        """The data needs nothing on this machine."""
        return config

    def forward(self, config: ConfigDict, batch: int | None, length: int | None) -> task.Forward:
        """There is no function of arrays alone."""
        raise BadInput(f"task: {self.name} is exported by its own code")


class ModuleTask:
    """One run of a module (`training.task.Task`)."""

    def __init__(self, family: ModuleFamily, config: ConfigDict):
        self._batches, self._fingerprint = family.batches, config.data.fingerprint
        self._tokens = family.cost(config).tokens_per_example
        self._evaluated = config.evaluation.batches
        self.model = family.model(config.model.width)

    def hyper(self) -> dict[str, float]:
        """Nothing enters as an array."""
        return {}

    def batch(self, k: int, rows: slice) -> task.Arrays:
        """Rows of training batch k."""
        return {name: array[rows] for name, array in self._batches.training(k).items()}

    def eval_batches(self, final: bool = True) -> Iterator[task.Arrays]:
        """The held-out batches: one set, since nothing is chosen by it."""
        del final
        for i in range(self._evaluated):
            yield self._batches.held_out(i)

    def summarize(self, outputs: Iterable[Outputs], final: bool = True) -> dict[str, float | int | str | None]:
        """Mean loss of the held-out examples, and its standard error."""
        del final
        losses = np.concatenate([np.asarray(part, np.float64) for part in outputs])
        sem = float(losses.std(ddof=1) / math.sqrt(len(losses))) if len(losses) > 1 else None
        held_out = {"eval_set": "held out", "eval_tokens": len(losses) * self._tokens}
        return {"loss": float(losses.mean()), "loss_sem": sem, **held_out}

    def keep(self, folder: Path) -> None:
        """The checkpoint is all there is."""

    def facts(self) -> Record:
        """What is known before training."""
        return {"data_hash": self._fingerprint, "available_tokens": None, "seq_len": self._tokens, "vocab_size": None}
