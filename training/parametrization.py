"""Parametrizations: how initial scale, learning rate, epsilon and decay of each parameter follow from width and depth.

A table gives every role of a parameter its multipliers as powers of ratios to a reference model, at which all of them are 1;
the standard parametrization has none. They are relative to the standard initial values (`lm/decoder.py`), whose kernels have
a standard deviation of 1 / sqrt(fan-in) and whose embeddings have 1 / sqrt(width). Roles follow from logical axes:

    input     embeddings of symbols and positions; of tied embeddings the head too
    output    the head of untied embeddings, or what else maps the width to a fixed number: the router of experts
    hidden    kernels between axes that grow with the width; those of an expert have its own fan-in
    residual  hidden kernels that write to the residual stream
    vector    norm scales and biases of a block
    shared    scales of normalised queries and keys, which all heads share
    outer     norm scales and biases outside the blocks

Logits are multiplied by 1 / width ratio, with tied embeddings and without (Yang et al. 2022, table 8, the form for tied
embeddings; their table 3 has the same in the learning rate and the initial scale of the head). Routers, inside the blocks,
have the form of their table 3. The mean of queries and keys is scaled for a head width that grows (1 / head width in place
of 1 / sqrt(head width)); where the head width is the reference's, as it is unless the config says otherwise, that changes
nothing.

Source: Yang et al. 2022, arXiv 2203.03466, tables 3 and 8 (muP); Dey et al. 2025, arXiv 2505.01618, table 1 (CompleteP:
residual multiplier, epsilon, decay); Mlodozeniec et al. 2025, arXiv 2512.22382 (epsilon of normalised queries and keys).
`docs/recipes.md` says what was compared with what. The rates of Muon are ours: its update scaled as Adam's (Liu et al. 2025,
arXiv 2502.16982, equation 4) and held to the spectral norm sqrt(fan-out / fan-in) of Yang et al. 2023, arXiv 2310.17813.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jaxtyping import Array, Float, PyTree
from ml_collections import ConfigDict

from training import checkpoint
from training.errors import BadInput
from training.files import read_object
from training.nets.primitives import upcast_to_f32
from training.optimizer import STACKS, TABLE as OPTIMIZERS, Axes
from training.types import AbstractParams, Floats, Params

ADAM = (
    "adam",
    "adamw",
    "lion",
    "ademamix",
    "schedule_free",
)  # every entry of an update has the size of the learning rate
MUON = ("muon", "normuon")  # updates of matrices are orthogonal, with Adam's root mean square
GROWS = {"embed": "width", "heads": "width", "kv": "width", "mlp": "mlp"}  # logical axis -> its ratio; others stay
LARGE = 2**16  # features, beside which those of an axis that does not grow are few
# Of the reference model where the config gives none: within what the recipe `default` was measured on.
WIDTH = 64
DEPTH = 2


class Parametrization(NamedTuple):
    """One parametrization: a row of `TABLE`.

    Attributes:
      depth_exponent: alpha: branches are multiplied by depth ratio^-alpha; None: depth is left to the standard
        parametrization.
      source: paper.
    """

    depth_exponent: float | None
    source: str


TABLE: dict[str, Parametrization] = {
    "mup": Parametrization(None, "Yang et al. 2022, arXiv 2203.03466"),
    "completep": Parametrization(1.0, "Dey et al. 2025, arXiv 2505.01618"),
    "completedp": Parametrization(1.0, "Mlodozeniec et al. 2025, arXiv 2512.22382"),
}


class Powers(NamedTuple):
    """Exponents of the ratios of fan-in, width and depth, whose product is a multiplier."""

    fan_in: float = 0.0
    width: float = 0.0
    depth: float = 0.0


class Row(NamedTuple):
    """Multipliers of one role, under Adam, as powers."""

    init: Powers
    lr: Powers
    eps: Powers
    decay: Powers


ONE = Powers()
ROLES: dict[str, Row] = {
    "input": Row(init=Powers(width=0.5), lr=ONE, eps=Powers(width=-1), decay=ONE),
    "output": Row(init=Powers(width=0.5), lr=ONE, eps=Powers(width=-1), decay=ONE),
    "router": Row(init=Powers(fan_in=-0.5), lr=Powers(fan_in=-1), eps=ONE, decay=Powers(fan_in=1)),
    "hidden": Row(init=ONE, lr=Powers(fan_in=-1), eps=Powers(width=-1), decay=Powers(fan_in=1)),
    "residual": Row(init=ONE, lr=Powers(fan_in=-1), eps=Powers(width=-1), decay=Powers(fan_in=1)),
    "vector": Row(init=ONE, lr=ONE, eps=Powers(width=-1), decay=ONE),
    "shared": Row(init=ONE, lr=ONE, eps=ONE, decay=ONE),
    "outer": Row(init=ONE, lr=ONE, eps=Powers(width=-1), decay=ONE),
}
OUTSIDE = ("input", "output", "outer")  # roles outside the blocks, which depth leaves alone
MATRICES = ("router", "hidden", "residual")


class Scaling(NamedTuple):
    """A parametrization at one shape; hashable, so that runs share steps. Ratios are to the reference model.

    Attributes:
      name: a key of `TABLE`.
      muon: whether matrices are updated as by Muon.
      width: of the residual stream.
      mlp: hidden features of an MLP, or of an expert.
      depth: blocks.
      head: features of an attention head.
    """

    name: str
    muon: bool
    width: float
    mlp: float
    depth: float
    head: float


class Multipliers(NamedTuple):
    """Factors by parameter of what a parametrization scales, or of one parameter."""

    init: Any
    lr: Any
    eps: Any
    decay: Any


def of(config: ConfigDict) -> Scaling | None:
    """The scaling of a config whose model has its shape; None where every multiplier is 1.

    Raises:
      BadInput: the optimizer or a section has no rule, or the reference is none.
    """
    if "recipe" not in config or config.recipe.name not in TABLE:
        return None
    name, reference, model, optimizer = config.recipe.name, config.recipe.reference, config.model, config.optimizer.name
    for key, value in reference.items():
        if value is not None and value <= 0:
            raise BadInput(f"recipe.reference.{key}: must be positive, got {value}")
    if optimizer not in ADAM + (MUON if name != "completedp" else ()):
        known = ", ".join(ADAM + (MUON if name != "completedp" else ()))
        raise BadInput(f"recipe.name: {name} has no rule for the optimizer {optimizer} (known: {known})")
    if config.lora.rank:
        raise BadInput(f"lora.rank: {name} has no rule for low-rank factors; recipe.name='default'")
    depth_exponent, head = TABLE[name].depth_exponent, model.width // model.heads
    width = model.width / (reference.width or WIDTH)
    scaling = Scaling(
        name=name,
        muon=optimizer in MUON,
        width=width,
        mlp=model.mlp_width / reference.mlp_width if reference.mlp_width else width,
        depth=1.0 if depth_exponent is None else model.depth / (reference.depth or DEPTH),
        head=head / (reference.head_width or head),
    )
    return None if scaling[2:] == (1.0,) * 4 else scaling


def forward(scaling: Scaling | None) -> dict[str, float]:
    """The multipliers of a forward pass by the names of the model's fields, those that are not 1.

    `residual_multiplier` of what a branch adds to the stream, `query_multiplier` of queries, `logit_multiplier` of logits.
    """
    if scaling is None:
        return {}
    alpha = TABLE[scaling.name].depth_exponent or 0.0
    factors = {
        "residual_multiplier": scaling.depth**-alpha,
        "query_multiplier": scaling.head**-0.5,
        "logit_multiplier": 1 / scaling.width,
    }
    return {name: factor for name, factor in factors.items() if factor != 1.0}


def check_parent(config: ConfigDict) -> None:
    """Raise BadInput where `init_from.run` was trained with other multipliers of the forward pass than the run has."""
    run = config.init_from.run
    if not run or not (Path(run) / "config.json").is_file():
        return
    kept = read_object(Path(run) / "config.json", "derived")["derived"].get("parametrization")
    theirs, ours = (forward(scaling) for scaling in (Scaling(**kept) if kept else None, of(config)))
    if theirs != ours:
        descriptions = [
            ", ".join(f"{name} {value:.4g}" for name, value in one.items()) or "none" for one in (theirs, ours)
        ]
        raise BadInput(
            f"init_from.run: {run} was trained with the multipliers {descriptions[0]}, and this run has {descriptions[1]}: "
            "give it the same recipe.name and recipe.reference"
        )


def role(path: str, axes: Axes) -> str:
    """The role of a parameter: a key of `ROLES`.

    Args:
      path: of the parameter, as in `blocks/mlp/up/kernel`.
      axes: its logical axes.
    """
    inner = [name for name in axes.names if name not in STACKS]
    if "vocab" in inner or "position" in inner:
        return "output" if path.startswith("head/") else "input"
    if len(inner) < 2:
        if "/query_norm/" in path or "/key_norm/" in path:
            return "shared"
        return "vector" if "layers" in axes.names else "outer"
    if inner[-1] not in GROWS:
        return "router"
    return "residual" if inner[-1] == "embed" else "hidden"


def multipliers(scaling: Scaling, path: str, axes: Axes, shape: tuple[int, ...]) -> Multipliers:
    """The multipliers of one parameter.

    Args:
      scaling: of the run.
      path: of the parameter.
      axes: its logical axes.
      shape: of the array.
    """
    of_role, alpha = role(path, axes), TABLE[scaling.name].depth_exponent
    row = ROLES[of_role]
    inner = [(name, size) for name, size in zip(axes.names, shape, strict=True) if name not in STACKS]
    ratios = [getattr(scaling, GROWS[name]) if name in GROWS else 1.0 for name, _ in inner]
    fan_in = ratios[0] if len(inner) > 1 else 1.0

    def product(powers: Powers, depth: float = 0.0) -> float:
        return fan_in**powers.fan_in * scaling.width**powers.width * scaling.depth ** (powers.depth + depth)

    if alpha is None or of_role in OUTSIDE:
        found = Multipliers(*(product(powers) for powers in row))
    else:
        # The standard parametrization divides by the root of the depth; here the residual multiplier stands for it.
        init = product(row.init, 0.5 if of_role == "residual" else 0.0)
        found = Multipliers(init, product(row.lr, alpha - 1), product(row.eps, -alpha), product(row.decay))
    if scaling.muon and of_role in MATRICES:
        lr = _spectral([size for _, size in inner], ratios) * (
            scaling.depth ** (alpha - 1) if alpha is not None else 1.0
        )
        found = found._replace(lr=lr, decay=1 / lr)
    return found


def _spectral(sizes: list[int], ratios: list[float]) -> float:
    """The factor of Muon's rate: an update has a spectral norm in proportion to the root of the larger of fan-in and
    fan-out, and is to have one in proportion to sqrt(fan-out / fan-in)."""
    before = max(size / ratio for size, ratio in zip(sizes, ratios, strict=True))
    return math.sqrt(ratios[1] / ratios[0] * before / max(sizes))


def tree(scaling: Scaling, params: Params | AbstractParams, axes: PyTree[Axes]) -> Multipliers:
    """The multipliers of all parameters: four trees of float32 arrays that broadcast against them.

    Args:
      scaling: of the run.
      params: arrays or shapes.
      axes: their logical axes.
    """

    def one(path: jax.tree_util.KeyPath, leaf: Array | jax.ShapeDtypeStruct, axis: Axes) -> Multipliers:
        found = multipliers(scaling, checkpoint.name_of(path), axis, leaf.shape)
        return Multipliers(*(np.full((1,) * leaf.ndim, factor, np.float32) for factor in found))

    leaves = jax.tree_util.tree_map_with_path(one, params, axes)
    parts = zip(*jax.tree.leaves(leaves, is_leaf=lambda x: isinstance(x, Multipliers)), strict=True)
    structure = jax.tree.structure(params)
    return Multipliers(*(jax.tree.unflatten(structure, part) for part in parts))


def initial(scaling: Scaling | None, params: Floats, axes: PyTree[Axes]) -> Floats:
    """Parameters as drawn, brought to their initial scale; norm scales and biases have the factor 1."""
    if scaling is None:
        return params
    return jax.tree.map(lambda p, f: (p * f).astype(p.dtype), params, tree(scaling, params, axes).init)


def with_epsilon(
    inner: optax.GradientTransformation, factors: PyTree[Float[np.ndarray, "..."]]
) -> optax.GradientTransformation:
    """A transformation whose epsilon is multiplied by a factor for each parameter.

    Where an update does not depend on the scale of gradients but for epsilon, that is the same as to divide the gradients:
    (m / f) / (sqrt(v) / f + eps) = m / (sqrt(v) + f eps).
    """

    def update(
        updates: PyTree[Array], state: PyTree[Array], params: PyTree[Array] | None = None, **inputs: jax.Array
    ) -> tuple[PyTree[Array], PyTree[Array]]:
        scaled = jax.tree.map(lambda g, f: upcast_to_f32(g) / f, updates, factors)
        return inner.update(scaled, state, params, **inputs)

    return optax.GradientTransformationExtraArgs(inner.init, update)


def has_epsilon(optimizer: str) -> bool:
    """Whether the named optimizer adds an epsilon."""
    return "eps" in OPTIMIZERS[optimizer].options


def by_role(scaling: Scaling | None) -> dict[str, Multipliers]:
    """The multipliers of every role, for people: of kernels from the width to as many features, or to few.

    Args:
      scaling: of the run; None: all of them are 1.
    """
    examples = {
        "input": ("embed/embedding", ("vocab", "embed")),
        "output": ("head/embedding", ("vocab", "embed")),
        "hidden": ("blocks/attention/query/kernel", ("layers", "embed", "heads")),
        "residual": ("blocks/attention/out/kernel", ("layers", "heads", "embed")),
        "router": ("blocks/mlp/router/kernel", ("layers", "embed", None)),
        "vector": ("blocks/mlp_norm/scale", ("layers", None)),
        "shared": ("blocks/attention/query_norm/scale", ("layers", None)),
        "outer": ("final_norm/scale", (None,)),
    }
    if scaling is None:
        return dict.fromkeys(examples, Multipliers(1.0, 1.0, 1.0, 1.0))
    return {
        name: multipliers(scaling, path, Axes(names), tuple(LARGE if name in GROWS else 1 for name in names))
        for name, (path, names) in examples.items()
    }


def summary(scaling: Scaling | None) -> Mapping[str, Any] | None:
    """What is kept of a scaling in a config: the parametrization and its ratios; None where every multiplier is 1."""
    return None if scaling is None else scaling._asdict()
