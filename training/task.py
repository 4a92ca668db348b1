"""What a family of models tells the engine, and the one dynamic import that finds it."""

import dataclasses
import importlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from ml_collections import ConfigDict

from training import extras
from training.cost import Cost
from training.errors import BadInput, nearest
from training.types import Batch, Collections, HostScalars, Loss, Option, Outputs, Params, Record, Scalars, Variables

FAMILIES = ("lm", "vision")
_REGISTERED: dict[str, "Family"] = {}  # families of this process, by name

Arrays = dict[str, np.ndarray]
Hyperparameters = dict[str, Any]  # by the name of their keys


@dataclasses.dataclass(frozen=True)
class Input:
    """An array that goes in: its name, its dtype, and its shape of numbers and symbols."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclasses.dataclass(frozen=True)
class Forward:
    """A model as a pure function of arrays, as its family offers it for export.

    Attributes:
      apply: (parameters, other collections, *inputs) -> logits.
      inputs: what goes in, in order.
      output: names of the axes of the logits.
      variables: of the model, boxed with their logical axes, and abstract.
      bounds: what holds of the symbols, as in "t <= 128".
      facts: what a reader of the artifact must know beside.
    """

    apply: Callable[..., jax.Array]
    inputs: tuple[Input, ...]
    output: tuple[str, ...]
    variables: Variables
    bounds: tuple[str, ...] = ()
    facts: Record = dataclasses.field(default_factory=dict)


@runtime_checkable
class Model(Protocol):
    """The compiled part of a task: pure functions of a frozen, hashable value; equal models share compiled steps."""

    def init(self, key: jax.Array, hyper: HostScalars) -> Variables:
        """Variables {"params": ..., other collections}, each leaf boxed with its logical axes."""
        ...

    def loss(self, params: Params, stats: Collections, batch: Batch, key: jax.Array, hyper: Scalars) -> Loss:
        """(total, (sums, stats)): the SUM of what is minimised over the batch's weight, and sums for the metrics; `stats`
        are the model's other collections, and among those that enter, not those that leave, a "teacher" where it has one.

        `sums` holds at least "weight" (tokens or images) and "loss" (the reported loss, summed); the engine divides
        totals and gradients by the weight of the whole batch. So sharding leaves the result exact; accumulation does where
        nothing is drawn and an example's loss depends on no other, for each micro-batch has a key of its own."""
        ...

    def score(self, params: Params, stats: Collections, batch: Batch) -> Outputs:
        """What an evaluation keeps of each example of a batch: arrays whose first axis is the batch."""
        ...


@runtime_checkable
class QKClipped(Protocol):
    """A model whose sums hold the largest attention logits [layers, heads] of a batch where `hyper` has "qk_clip"."""

    def qk_clipped(self, params: Params, max_logits: jax.Array, tau: jax.Array) -> Params:
        """The parameters after QK-clip, see `training.nets.qk_clip`."""
        ...


@runtime_checkable
class Task(Protocol):
    """One resolved run: its model, its data and its evaluation."""

    model: Model

    def hyper(self) -> dict[str, float]:
        """Scalars that enter `init` and `loss` as arrays: changing one never recompiles."""
        ...

    def batch(self, k: int, rows: slice) -> Arrays:
        """Those rows of global batch k, a pure function of (data seed, k)."""
        ...

    def eval_batches(self, final: bool = True) -> Iterable[Arrays]:
        """A fixed evaluation set in batches of one size, the last padded; pads carry no weight in `summarize`.

        The final set is what the record reports; the other is evaluated during a run, which may stop or keep its best
        checkpoint by it. A family for which nothing is chosen may use one set for both."""
        ...

    def summarize(self, outputs: Iterable[Outputs], final: bool = True) -> dict[str, float | int | str | None]:
        """Record entries of an evaluation, "loss" and "loss_sem" among them, from the scores of all batches."""
        ...

    def facts(self) -> Record:
        """Record entries known before training: hashes, vocabulary, unique tokens."""
        ...

    def keep(self, folder: Path) -> None:
        """Write into the run directory what its checkpoints are worth nothing without, such as a vocabulary."""
        ...


@runtime_checkable
class Family(Protocol):
    """A module such as `lm.task`.

    Attributes:
      INDIFFERENT: keys that change how fast or where a run goes, never what it computes: no part of its identity.
      INHERITED: facts (see `Task.facts`) that a run must share with the runs whose parameters it begins with or learns from.
      INPUTS: keys that never change a compiled step: runs that differ in them alone share one program.
      RENAMED: keys of its sections that had another name -> their name now.
      UNIT: what people count a run in, "tokens" or the family's word for its examples.
    """

    INDIFFERENT: tuple[str, ...]
    INHERITED: tuple[str, ...]
    INPUTS: tuple[str, ...]
    RENAMED: Mapping[str, str]
    UNIT: str

    def defaults(self) -> ConfigDict:
        """The config sections that the family adds to the engine's."""
        ...

    def model_options(self, name: str | None) -> Mapping[str, Option]:
        """The keys of the section `model` that the named model reads, with its defaults: None where a value follows from
        others; {} where there is no such model."""
        ...

    def shape_for(self, config: ConfigDict) -> dict[str, Option]:
        """Values for the keys of the section `model` that are None: those that bring the parameter count nearest to
        `model.size`, or that follow from the keys that are given, or the named model's defaults."""
        ...

    def validate(self, config: ConfigDict) -> None:
        """Raise BadInput where the family's own sections contradict each other."""
        ...

    def scaled_hparams(self, config: ConfigDict, n: int, d: float) -> Hyperparameters:
        """Batch size, learning rate and warmup by the recipe that `recipe.name` names; what the config gives is passed on
        to the rules that depend on it.

        Args:
          config: complete.
          n: parameters that one token uses.
          d: training examples.
        Returns:
          "batch_size" in examples, "learning_rate" at the peak of the schedule, "warmup_steps"; where the recipe says them,
          "b1", "b2", "eps" and "weight_decay" of the optimizer; "source", and "reference", the point it is relative to.
        """
        ...

    def cost(self, config: ConfigDict) -> Cost:
        """Parameters and FLOPs, from shapes alone."""
        ...

    def available(self, config: ConfigDict) -> int | None:
        """Unique training examples of the data, None where it never ends."""
        ...

    def prepare(self, config: ConfigDict, verify: bool) -> Record:
        """Build the dataset of the section `data` ahead of time, or with `verify` hash all of what is there.

        Returns "name", "path" (None where nothing lies on disk), "data_hash", "splits" {name: {what: count, None where
        it never ends}}, and whatever else identifies the data."""
        ...

    def build(self, config: ConfigDict) -> Task:
        """The task of a resolved config; opens its data."""
        ...

    def stand_in(self, config: ConfigDict) -> ConfigDict:
        """A resolved config whose batches have the same shapes and whose data needs nothing on this machine, to compile for.

        Raises:
          Absent: there is none.
        """
        ...

    def forward(self, config: ConfigDict, batch: int | None, length: int | None) -> Forward:
        """The model of a resolved config as a function of arrays, for `isoflop export`; None: of any size."""
        ...


def register(name: str, family: Family) -> None:
    """Make a family known in this process under a name that is no package's; one of the same name before it is replaced.

    Raises:
      BadInput: the name is that of a package.
    """
    if name in FAMILIES:
        raise BadInput(f"task: the family {name!r} is a package")
    _REGISTERED[name] = family


def resolve(name: str) -> Family:
    """The family of a task name: one that was registered, else the module `<name>.task`, the only dynamic import.

    Raises:
      BadInput: there is no such family, or a package that it needs is not installed.
    """
    if name in _REGISTERED:
        return _REGISTERED[name]
    if name not in FAMILIES:
        raise BadInput(f"task: no family {name!r}{nearest(name, FAMILIES)} (known: {', '.join(FAMILIES)})")
    try:
        return importlib.import_module(f"{name}.task")  # type: ignore[return-value]
    except ModuleNotFoundError as error:
        if absent := extras.explained(error):
            raise BadInput(f"task: {name}: {absent}") from error
        if error.name != f"{name}.task":
            raise
        raise BadInput(f"task: the family {name!r} has no models yet") from error
