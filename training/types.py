"""Types of what passes between modules: trees of arrays by what they hold, and the values of configs and records."""

from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Key, Num, PyTree

# Trees ------------------------------------------------------------------------------------------------------------------

ArrayOrNumpy = Array | np.ndarray  # on a device, or on the host
Floats = PyTree[Float[ArrayOrNumpy, "..."]]
Params = Mapping[str, Floats]  # parameters by name; their gradients and means are such trees too
AbstractParams = Mapping[str, PyTree[Float[jax.ShapeDtypeStruct, "..."]]]
Masks = PyTree[Bool[Array, "..."]] | None  # of parameters: which values are not cut; None: the parameter, or all, stay
Collections = Mapping[
    str, PyTree[Array | np.ndarray]
]  # what a model has beside its parameters: running statistics, states
Variables = Mapping[str, PyTree[Array | jax.ShapeDtypeStruct]]  # parameters and collections, boxed with logical axes
Batch = Mapping[str, Array]  # [batch, ...] each
Scalars = Mapping[str, Float[Array, ""]]  # hyperparameters, which a step takes as arrays
HostScalars = Mapping[str, Float[Array, ""] | np.float32 | float]  # the same, as a host may hold them
Metrics = dict[str, Float[Array, "..."]]
Loss = tuple[Float[Array, ""], tuple[Metrics, Collections]]  # the total, sums for the metrics, and collections after it
LossFunction = Callable[[Params, Collections, Batch, Key[Array, ""], Scalars], Loss]
Outputs = PyTree[Num[ArrayOrNumpy, "batch ..."]]  # what an evaluation keeps of each example of a batch

# Values -----------------------------------------------------------------------------------------------------------------

Option = bool | int | float | str | Sequence[object] | None  # of one key of a config
Value = Option | Mapping[str, object]  # what JSON can hold
Record = dict[str, Value]
Evaluation = dict[str, float | int | str | None]  # record entries of an evaluation
Rules = tuple[tuple[str, float | tuple[float, ...]], ...]  # pattern -> factor, or one factor a layer of a stack
