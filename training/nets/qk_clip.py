"""QK-clip: after an update, heads whose attention logits grew beyond a threshold have their projections scaled down.

A head whose largest logit in the forward pass of the step was S > tau gets gamma = tau / S of its logits: W_q and W_k are
multiplied by sqrt(gamma) each. What several heads share stays as it is, and W_q takes all of gamma: the keys of a group of
query heads, and the rotated features of keys in latent attention. Moments stay as they are.

Source: Kimi Team 2025, "Kimi K2", arXiv 2507.20534, algorithm 1, where tau is 100; for the keys of grouped heads the
rule is ours, after theirs for the shared rotated features.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from training.errors import BadInput
from training.nets import stack
from training.nets.block_config import BlockConfig
from training.nets.mixers import MIXERS
from training.types import Params


def check(config: BlockConfig) -> None:
    """Raise BadInput where a block has no attention logits that its projections can scale."""
    for name in config.pattern:
        if MIXERS[name].logits is None:
            raise BadInput(f"optimizer.qk_clip: {name} has no attention logits; optimizer.qk_clip=0")
    if config.qk_norm:
        raise BadInput("optimizer.qk_clip: model.qk_norm normalises queries and keys, so that no kernel scales a logit")


def factors(max_logits: Float[Array, "layers heads"], tau: Float[Array, ""]) -> Float[Array, "layers heads"]:
    """gamma of every head: 1 where its largest logit is at most tau, or no number."""
    return jnp.where(max_logits > tau, tau / max_logits, 1.0)


def clipped(
    config: BlockConfig, params: Params, max_logits: Float[Array, "layers heads"], tau: Float[Array, ""]
) -> Params:
    """The parameters of a model after QK-clip.

    Args:
      config: of its stack, as `check` has passed it.
      params: of the model, the stacked trees by name among them.
      max_logits: of the forward pass of the step.
      tau: the threshold.
    """
    gamma, after = factors(max_logits, tau), dict(params)
    for part in stack.segments(config):
        for position, (name, kind) in enumerate(zip(part.names, part.kinds, strict=True)):
            mixer, end = MIXERS[kind.mixer], part.first + part.count
            assert mixer.logits is not None
            of_stack = jax.vmap(functools.partial(mixer.logits.scaled, config))
            own = gamma[part.first + position : end : len(part.kinds)]
            after[name] = {**after[name], mixer.branch: of_stack(after[name][mixer.branch], own)}
    return after
