"""Recipes of language models: named, pure functions from the shape, the horizon and the batch to the hyperparameters.

Learning rate, batch size and warmup are of all of them; beta1, beta2, epsilon and weight decay of what says them, else they
are the optimizer's own. What differs between parameters (initial scale, learning rate, epsilon and decay by role) and the
multipliers of residual branches and logits are those of `training.parametrization`, whose names are names of recipes here.
"""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from training import parametrization
from training.errors import BadInput, nearest
from training.task import Hyperparameters


class Target(NamedTuple):
    """What a recipe is asked for.

    Attributes:
      n: parameters that a token goes through.
      d: training tokens, the true duration.
      seq_len: tokens an example.
      batch_size: examples a step where the config gives them; None: the recipe chooses.
      factor: how many times the rate of a decoder a model wants.
      non_embedding: of n, those outside embeddings.
      depth, width: blocks, and features of the residual stream.
      n_reference: parameters that a token goes through of the reference model.
      options: of the optimizer, and its "weight_decay", before the recipe.
    """

    n: float
    d: float
    seq_len: int
    batch_size: int | None = None
    factor: float = 1.0
    non_embedding: float = math.nan
    depth: int = 0
    width: int = 0
    n_reference: float = math.nan
    options: Mapping[str, float] = MappingProxyType({})


Reference = Mapping[str, float | None]  # keys of `recipe.reference`; None: the recipe has no use for one, or derives it


class Recipe(NamedTuple):
    """One recipe: a row of `TABLE`.

    Attributes:
      lr: (target, batch in tokens, reference) -> peak learning rate.
      batch: (target, reference) -> tokens a step.
      source: where it comes from, and what of it is ours.
      reference: the keys of `recipe.reference` that it reads, with their defaults.
      others: (target, batch in tokens, reference) -> further hyperparameters.
      warmup: share of the duration.
    """

    lr: Callable[[Target, float, Reference], float]
    batch: Callable[[Target, Reference], float]
    source: str
    reference: Reference = MappingProxyType({})
    others: Callable[[Target, float, Reference], dict[str, float]] = lambda target, batch, reference: {}
    warmup: float = 0.05


MOST = 0.05  # the largest rate of `default`


def _default_lr(n: float, batch: float) -> float:
    return 0.22 * n**-0.46 * batch**0.25


def _default_batch(d: float) -> float:
    """2,048 tokens at D = 4e6, as D^0.65 up to half a million at 2e10; never so many that under 400 steps remain."""
    return min(2048 * (d / 4e6) ** 0.65, d / 400)


def _base_lr(target: Target, batch: float, reference: Reference) -> float:
    """The learning rate at the reference: given, or that of `default` for its size and a batch."""
    given = reference["learning_rate"]
    return min(target.factor * _default_lr(target.n_reference, batch), MOST) if given is None else given


def step_ratio(d: float, batch: float, reference: Reference) -> float:
    """Optimizer steps as a ratio to those of the reference, from tokens and tokens a step of both."""
    return (d / batch) / (float(reference["tokens"] or 0) / float(reference["batch_size"] or 0))


def _completedp_others(target: Target, batch: float, reference: Reference) -> dict[str, float]:
    """AdamW discretises one stochastic differential equation at every number of steps: with the ratio s of steps to the
    reference's, 1 - beta1 and 1 - beta2 go as 1 / s, epsilon as s^(1/2), weight decay as s^(-1/2), and the rate as it.

    Source: Mlodozeniec et al. 2025, arXiv 2512.22382, after Malladi et al. 2022, arXiv 2205.10287; read in a text that
    names them, not in the papers (`docs/recipes.md`).
    """
    steps, options = step_ratio(target.d, batch, reference), target.options
    if steps == 1:
        return {}
    scaled = {name: max(0.0, 1 - (1 - options[name]) / steps) for name in ("b1", "b2") if name in options}
    return scaled | {"eps": options["eps"] * steps**0.5, "weight_decay": options["weight_decay"] * steps**-0.5}


def _deepseek_flops(target: Target) -> float:
    """C = M D, M the FLOPs of a token outside embeddings, attention's among them: 6 N + 12 depth width length, N without
    embeddings."""
    return target.d * (6 * target.non_embedding + 12.0 * target.depth * target.width * target.seq_len)


SHAPE: Reference = {"width": parametrization.WIDTH, "mlp_width": None, "head_width": None, "learning_rate": None}
OURS = "batch size and the learning rate at the reference are those of `default`"

# `default` was measured with AdamW and cosine decay to a tenth and to zero, on two-layer decoders of 3.6 to 115 thousand
# parameters, at 256 to 2,048 tokens a step, with and without normalised queries and keys (configs/lm/demo_lr.py; the runs
# are in benchmarks/results/demo_lr.csv): at 15 of 18 combinations of size, budget, decay and model the rule is within 25%
# of the best rate, and half or twice the rule's rate is nowhere better by a standard error. Larger models are extrapolation.
# Of experts, N are the parameters that a token goes through: 800 steps of configs/lm/moe.py, one seed, ended at 1.522 with
# a peak of 8e-3 and at 1.539 with 4e-3, and the rule says 6.9e-3 of the 116 thousand at work, 4.4e-3 of all 313 thousand.
TABLE: dict[str, Recipe] = {
    "default": Recipe(
        lr=lambda target, batch, reference: min(target.factor * _default_lr(target.n, batch), MOST),
        batch=lambda target, reference: _default_batch(target.d),
        source="measured on 3.6 to 115 thousand parameters (configs/lm/demo_lr.py)",
    ),
    "mup": Recipe(
        lr=_base_lr,
        batch=lambda target, reference: _default_batch(target.d),
        source=f"{parametrization.TABLE['mup'].source}, tables 3 and 8; {OURS}",
        reference=SHAPE,
    ),
    "completep": Recipe(
        lr=_base_lr,
        batch=lambda target, reference: _default_batch(target.d),
        source=f"{parametrization.TABLE['completep'].source}, table 1, alpha = 1; {OURS}",
        reference={**SHAPE, "depth": parametrization.DEPTH},
    ),
    "completedp": Recipe(
        lr=lambda target, batch, reference: (
            _base_lr(target, float(reference["batch_size"] or 0), reference)
            * step_ratio(target.d, batch, reference) ** -0.5
        ),
        batch=lambda target, reference: _default_batch(target.d),
        source=f"{parametrization.TABLE['completedp'].source}, by a secondary text, alpha = 1; {OURS}",
        reference={**SHAPE, "depth": parametrization.DEPTH, "tokens": 4e6, "batch_size": 2048.0},
        others=_completedp_others,
    ),
    "deepseek": Recipe(
        lr=lambda target, batch, reference: 0.3118 * _deepseek_flops(target) ** -0.1250,
        batch=lambda target, reference: 0.2920 * _deepseek_flops(target) ** 0.3271,
        source="Bi et al. 2024, arXiv 2401.02954, by a secondary text; C from non-embedding FLOPs; the warmup is ours",
    ),
    "step_law": Recipe(
        lr=lambda target, batch, reference: 1.79 * target.non_embedding**-0.713 * target.d**0.307,
        batch=lambda target, reference: 0.58 * target.d**0.571,
        source="Li et al. 2025, arXiv 2503.04715, by a secondary text; N without embeddings; the warmup is ours",
    ),
}


def named(name: str) -> Recipe:
    """The recipe of a name.

    Raises:
      BadInput: there is none.
    """
    if name not in TABLE:
        raise BadInput(f"recipe.name: no {name!r}{nearest(name, TABLE)} (known: {', '.join(TABLE)})")
    return TABLE[name]


def reference_of(name: str, given: Reference) -> Reference:
    """The reference of a named recipe: what is given of it over the recipe's own.

    Raises:
      BadInput: no such recipe, or it reads no key that is given.
    """
    own = named(name).reference
    for key, value in given.items():
        if value is not None and key not in own:
            raise BadInput(f"recipe.reference.{key}: {name} does not read it (it reads {', '.join(own) or 'none'})")
    return {key: default if given.get(key) is None else given[key] for key, default in own.items()}


def apply(name: str, target: Target, given: Reference | None = None) -> Hyperparameters:
    """All that a named recipe says of a run.

    Args:
      name: a key of `TABLE`.
      target: the run.
      given: what the config says of the reference; None: nothing.
    Returns:
      `batch_size` in examples (a power of two), `learning_rate`, `warmup_steps`, what else the recipe says, its `source`
      and its `reference`.
    Raises:
      BadInput: no such recipe, or a reference that it does not read.
    """
    recipe, reference = named(name), reference_of(name, given or {})
    batch = target.batch_size
    if batch is None:
        batch = 2 ** max(0, math.floor(math.log2(max(recipe.batch(target, reference) / target.seq_len, 1))))
    tokens = batch * target.seq_len
    return {
        "batch_size": batch,
        "learning_rate": recipe.lr(target, tokens, reference),
        "warmup_steps": round(recipe.warmup * target.d / tokens),
        **recipe.others(target, tokens, reference),
        "source": recipe.source,
        "reference": dict(reference),
    }
