"""A stack of transformer blocks: a pattern of kinds repeated, scanned or unrolled, and what the backward pass recomputes.

A stack whose blocks are all alike has one tree of parameters, "blocks", with a leading axis of layers. A pattern of P kinds
has one for each position, "blocks_0" to "blocks_{P-1}"; dense blocks before those with experts stand in "dense_blocks".
A block (d width; shapes without the layers), of a mixer whose branch is, say, "attention":

    attention_norm/{scale,bias}  (d)
    attention/...                see the mixer
    cross_norm, cross            only with `cross_attention`
    mlp_norm/{scale,bias}        (d)  not in parallel blocks, which share the mixer's norm
    mlp/...                      see the feed-forward
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from training.errors import BadInput
from training.mesh import constrain, ways
from training.nets import layers, pipeline, probes
from training.nets.block_config import BlockConfig
from training.nets.ffn import FEED_FORWARDS, moe
from training.nets.initial import Leaves
from training.nets.layers import Drop, Layer, norm, norm_leaves
from training.nets.mixers import MIXERS, attention, cross_attention
from training.nets.mixers.mixer import Context, LayerCache, Stream
from training.types import Params

NORM_POSITIONS = ("pre", "post")
REMAT: dict[str, Callable[..., bool] | None] = {
    "none": None,
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.save_from_both_policies(
        jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
        jax.checkpoint_policies.save_only_these_names("expert"),  # projections too, though stacked
    ),
    # Queries, keys and values, what splash attention puts out, and the hidden features of MLPs before their activation.
    "named": jax.checkpoint_policies.save_only_these_names("qkv", "attention", "mlp", "expert"),
}

Metrics = dict[str, Float[Array, "layers ..."]]
Caches = dict[str, LayerCache]  # of each stack, with a leading axis of layers
LayerMetrics = dict[str, Float[Array, "..."]]
LayerOutput = tuple[LayerCache, LayerMetrics]  # the longer cache of a block, and its metrics
T = TypeVar("T")


class Kind(NamedTuple):
    """One kind of block: names in `MIXERS` and `FEED_FORWARDS`."""

    mixer: str
    ffn: str


class Segment(NamedTuple):
    """Blocks `first` to `first + count` of a stack, which repeat these kinds.

    Attributes:
      names: of the stacked tree of each kind.
      kinds: in turn.
      first: layer of the first block.
      count: blocks.
    """

    names: tuple[str, ...]
    kinds: tuple[Kind, ...]
    first: int
    count: int

    def layers(self, position: int) -> int:
        """Blocks of the kind at a position."""
        return (self.count - position - 1) // len(self.kinds) + 1


def segments(config: BlockConfig) -> list[Segment]:
    """The parts of a stack, each a repeated pattern: dense blocks before those with experts, then all others."""
    dense = min(config.moe.dense_layers, config.depth) if config.moe else 0
    ffn = "moe" if config.moe else "mlp"
    parts = []
    for name, kind, first, end in (("dense_blocks", "mlp", 0, dense), ("blocks", ffn, dense, config.depth)):
        mixers = [config.pattern[layer % len(config.pattern)] for layer in range(first, end)]
        period = len(config.pattern) if len(set(mixers)) > 1 else 1
        kinds = tuple(Kind(mixer, kind) for mixer in mixers[:period])
        if kinds:
            names = (name,) if len(kinds) == 1 else tuple(f"{name}_{i}" for i in range(len(kinds)))
            parts.append(Segment(names, kinds, first, end - first))
    return parts


def check(config: BlockConfig) -> None:
    """Raise BadInput where the shape or the names of the blocks contradict each other."""
    known = {
        "norm": layers.NORMS,
        "activation": tuple(layers.ACTIVATIONS),
        "remat": tuple(REMAT),
        "norm_position": NORM_POSITIONS,
    }
    for field, names in known.items():
        if getattr(config, field) not in names:
            raise BadInput(f"model.{field}: {getattr(config, field)!r} is not one of {', '.join(names)}")
    for field in ("depth", "width", "heads", "kv_heads", "mlp_width"):
        if getattr(config, field) < 1:
            raise BadInput(f"model.{field}: must be at least 1, got {getattr(config, field)}")
    if config.width % config.heads:
        raise BadInput(f"model.heads: {config.heads} does not divide the width {config.width}")
    if config.heads % config.kv_heads:
        raise BadInput(f"model.kv_heads: {config.kv_heads} does not divide the {config.heads} heads")
    if config.parallel_block and config.norm_position == "post":
        raise BadInput("model.parallel_block: mixer and MLP read one norm, so it stands before them")
    if not config.pattern:
        raise BadInput("model.pattern: names no mixer")
    for name in config.pattern:
        if name not in MIXERS:
            raise BadInput(f"model.pattern: {name!r} is not one of {', '.join(MIXERS)}")
        MIXERS[name].check(config)
    unread = dict(config.mixer_options).keys() - {key for name in config.pattern for key in MIXERS[name].options}
    if unread:
        raise BadInput(f"model.{min(unread)}: no mixer of the pattern {', '.join(config.pattern)} reads it")
    if config.moe is not None:
        moe.check(config.moe)


def check_context(config: BlockConfig) -> None:
    """Raise BadInput where the blocks need whole sequences, so that mesh.context cannot split them."""
    for name in config.pattern:
        if not MIXERS[name].splits_length:
            raise BadInput(
                f"mesh.context: {name} reads a sequence token after token and cannot be split; mesh.context=1"
            )


def check_stages(config: BlockConfig, stages: int) -> None:
    """Raise BadInput where the blocks cannot be stages of a pipeline.

    Args:
      config: of the stack.
      stages: size of the mesh axis "stage"; -1: not known yet.
    """
    alike = len(segments(config)) == 1 and len(segments(config)[0].kinds) == 1
    if config.moe or config.cross_attention or not alike:
        raise BadInput("mesh.stage: stages hold dense blocks that are all alike; mesh.stage=1")
    for name in ("pipeline_rounds", "pipeline_microbatches"):
        if getattr(config, name) < (name == "pipeline_rounds"):
            raise BadInput(f"model.{name}: must be positive, got {getattr(config, name)}")
    pipeline.check(max(stages, 1), config.pipeline_rounds, config.depth)


# Parameters -------------------------------------------------------------------------------------------------------------


def block_leaves(config: BlockConfig, kind: Kind) -> Leaves:
    """The parameters of one block."""
    mixer, d = MIXERS[kind.mixer], config.width
    tree = {
        f"{mixer.branch}_norm": norm_leaves(config, d),
        mixer.branch: mixer.parameters(config),
        "mlp": FEED_FORWARDS[kind.ffn].parameters(config),
    }
    if config.cross_attention:
        tree |= {"cross_norm": norm_leaves(config, d), "cross": attention.parameters(config)}
    return tree if config.parallel_block else tree | {"mlp_norm": norm_leaves(config, d)}


def stacks(config: BlockConfig, prefix: str = "") -> dict[str, tuple[Leaves, int]]:
    """The parameters of one block and the number of blocks, of every stacked tree by name."""
    return {
        prefix + name: (block_leaves(config, kind), part.layers(position))
        for part in segments(config)
        for position, (name, kind) in enumerate(zip(part.names, part.kinds, strict=True))
    }


def parameters_of(config: BlockConfig, params: Params, prefix: str = "") -> Params:
    """The stacked trees of a stack, out of a model's parameters."""
    return {name: params[prefix + name] for name in stacks(config)}


# The pass through the blocks --------------------------------------------------------------------------------------------


def context(
    config: BlockConfig,
    positions: Int[Array, "*rows length"],
    rope_theta: float | None = None,
    **fields: Any,
) -> Context:
    """A `Context` with the angles of rotary positions that the stack's mixers read.

    Args:
      config: of the stack.
      positions: of the tokens.
      rope_theta: base of the rotary frequencies; None: no rotary positions.
      fields: the other fields of the context.

    Raises:
      BadInput: devices cannot share the sequence out evenly.
    """
    shards, length = ways("length"), positions.shape[-1]
    if length % shards:
        raise BadInput(f"mesh.context: {shards} does not divide the {length} tokens of a sequence")
    widths = {MIXERS[name].rope_width(config) for name in config.pattern} - {0} if rope_theta is not None else set()
    angles = {width: layers.rotary_angles(positions, width, rope_theta or 0.0) for width in sorted(widths)}
    return Context(positions, angles, **fields)


def apply(config: BlockConfig, params: Params, x: Stream, context: Context) -> tuple[Stream, Metrics]:
    """All blocks, one after another.

    Args:
      config: of the stack.
      params: its stacked trees by name, see `parameters_of`.
      x: the residual stream.
      context: what all blocks share.
    Returns:
      The residual stream, and metrics of every layer that has them, in the order of the layers: in training those of
      experts, and the probes of the context.
    """
    metrics: Metrics = {}
    if ways("stage") > 1:
        return _pipelined(config, params, x, context), metrics
    for part in segments(config):  # of which the last alone can have experts
        x, _, of_part = _run(config, part, params, x, context, None)
        joined = {name: jnp.concatenate([metrics[name], of_part[name]]) for name in metrics.keys() & of_part.keys()}
        metrics = {**of_part, **joined}
    return x, metrics


def extend(config: BlockConfig, params: Params, x: Stream, context: Context, caches: Caches) -> tuple[Stream, Caches]:
    """As `apply`, of tokens that continue those in the caches; returns the longer caches."""
    longer: Caches = {}
    for part in segments(config):
        x, of_part, _ = _run(config, part, params, x, context, caches)
        longer |= of_part
    return x, longer


def empty_caches(config: BlockConfig, batch: int, length: int, dtype: str) -> Caches:
    """Caches with room for `length` tokens of every stack."""
    caches: Caches = {}
    for part in segments(config):
        for position, (name, kind) in enumerate(zip(part.names, part.kinds, strict=True)):
            one, count = MIXERS[kind.mixer].empty_cache(config, batch, length, dtype), part.layers(position)
            caches[name] = {"mixer": jax.tree.map(lambda leaf, n=count: jnp.zeros((n, *leaf.shape), leaf.dtype), one)}
    return caches


def block(
    config: BlockConfig, kind: Kind, p: Params, x: Stream, context: Context, layer: Layer, cache: LayerCache = None
) -> tuple[Stream, LayerCache, LayerMetrics]:
    """One block.

    Args:
      config: of the stack.
      kind: of the block.
      p: its parameters.
      x: the residual stream.
      context: what all blocks share.
      layer: its index, which may be traced.
      cache: {"mixer": the mixer's, "memory": keys and values of cross attention}; None: there are no tokens before.
    Returns:
      The residual stream, the longer cache, and metrics: those of the feed-forward and the probes of the context.
    """
    mixer, drop = MIXERS[kind.mixer], context.drop
    metrics: LayerMetrics = {}

    def mix(y: Stream) -> Stream:
        nonlocal cache, metrics
        if probes.MAX_LOGIT in context.probes:
            metrics = {probes.MAX_LOGIT: _max_logits(config, kind, p, y, context)}
        if cache is None:
            return mixer.apply(config, p[mixer.branch], y, context)
        out, longer = mixer.extend(config, p[mixer.branch], y, context, cache["mixer"])
        cache = cache | {"mixer": longer}
        return out

    def feed(y: Stream) -> Stream:
        nonlocal metrics
        out, of_experts = FEED_FORWARDS[kind.ffn].apply(config, p["mlp"], y, context)
        metrics = metrics | of_experts
        return out

    def cross(y: Stream) -> Stream:
        return cross_attention.apply(config, p["cross"], y, context, None if cache is None else cache["memory"])

    if config.parallel_block:
        y = norm(config, p[f"{mixer.branch}_norm"], x)
        x = x + _scaled(config, drop(mix(y), layer, 0))
        x = constrain(x + _scaled(config, drop(feed(y), layer, 1)), "batch", "length", None)
        return x, cache, metrics | _activations(x, context)
    x = _add(config, p[f"{mixer.branch}_norm"], x, mix, drop, layer, 0)
    if config.cross_attention:
        x = _add(config, p["cross_norm"], x, cross, drop, layer, 2)
    x = _add(config, p["mlp_norm"], x, feed, drop, layer, 1)
    return x, cache, metrics | _activations(x, context)


def _activations(x: Stream, context: Context) -> LayerMetrics:
    """The mean square of the stream behind a block, where the context asks for it."""
    if probes.SQUARE not in context.probes:
        return {}
    return {probes.SQUARE: probes.read(context.probes[probes.SQUARE], lambda: probes.mean_square(x))}


def _max_logits(config: BlockConfig, kind: Kind, p: Params, y: Stream, context: Context) -> Float[Array, " heads"]:
    """The largest attention logit of every head of a block; not a number where its mixer has none."""
    mixer = MIXERS[kind.mixer]
    if mixer.logits is None:
        return jnp.full(config.heads, jnp.nan)
    (q, k), window = mixer.logits.of(config, p[mixer.branch], y, context), mixer.logits.window(config)
    probe = lambda: probes.max_logits(q, k, context.segments, context.causal, window)
    return probes.read(context.probes[probes.MAX_LOGIT], probe)


def _add(
    config: BlockConfig, p: Params, x: Stream, branch: Callable[[Stream], Stream], drop: Drop, layer: Layer, place: int
) -> Stream:
    """The stream with what a branch adds to it, normalised before or after."""
    if config.norm_position == "post":
        return constrain(norm(config, p, x + _scaled(config, drop(branch(x), layer, place))), "batch", "length", None)
    return constrain(x + _scaled(config, drop(branch(norm(config, p, x)), layer, place)), "batch", "length", None)


def _scaled(config: BlockConfig, y: Stream) -> Stream:
    """What a branch adds to the stream, times the multiplier of a parametrization that has one."""
    return y if config.residual_multiplier == 1.0 else y * config.residual_multiplier


def _run(
    config: BlockConfig, part: Segment, params: Params, x: Stream, context: Context, caches: Caches | None
) -> tuple[Stream, Caches, Metrics]:
    """The blocks of one segment: the stream behind them, their caches and metrics."""
    period, (rounds, rest) = len(part.kinds), divmod(part.count, len(part.kinds))
    trees = [(params[name], None if caches is None else caches[name]) for name in part.names]
    bodies = [_body(config, kind, context) for kind in part.kinds]

    def repetition(
        x: Stream, layers: Sequence[tuple[Params, LayerCache]], first: Layer
    ) -> tuple[Stream, list[LayerOutput]]:
        outputs = []
        for position, (body, (p, cache)) in enumerate(zip(bodies, layers, strict=False)):
            x, output = body(p, x, cache, first + position if position else first)
            outputs.append(output)
        return x, outputs

    if config.scan:
        first = period * jnp.arange(rounds) if period > 1 else jnp.arange(rounds)
        inputs = [_layers(tree, slice(rounds)) if rest else tree for tree in trees]
        steps = (inputs, first + part.first if part.first else first)
        x, outputs = jax.lax.scan(lambda x, step: repetition(x, *step), x, steps)
        if rest:
            x, more = repetition(x, [_layers(tree, rounds) for tree in trees[:rest]], part.first + period * rounds)
            outputs[:rest] = [_append(many, one) for many, one in zip(outputs, more, strict=False)]
    else:
        split = [_unstack(tree, part.layers(position)) for position, tree in enumerate(trees)]
        single: list[list[LayerOutput]] = [[] for _ in part.kinds]
        for layer in range(part.count):
            position = layer % period
            p, cache = split[position][layer // period]
            x, output = bodies[position](p, x, cache, part.first + layer)
            single[position].append(output)
        outputs = [jax.tree.map(lambda *leaves: jnp.stack(leaves), *layers) for layers in single]
    longer = dict(zip(part.names, (cache for cache, _ in outputs), strict=True))
    return x, longer, _by_layer([metrics for _, metrics in outputs])


def _pipelined(config: BlockConfig, params: Params, x: Stream, context: Context) -> Stream:
    """`apply` by the stages of the mesh, each of which holds the same number of blocks."""
    check_stages(config, ways("stage"))
    if context.drop is not layers.no_drop:
        raise BadInput("mesh.stage: microbatches would be dropped alike (model.dropout); mesh.stage=1")
    ((name,), (kind,), _, count), batch = segments(config)[0], len(x)
    own = {"segments": context.segments}
    if context.positions.ndim > 1:  # positions of each row
        own |= {"positions": context.positions, "angles": context.angles}

    def chunk(stacked: Params, x: Stream, rows: dict[str, Any], first: Layer) -> Stream:
        body = _body(config, kind, dataclasses.replace(context, **rows))
        if config.scan:
            one = lambda x, step: (body(step[0], x, None, step[1])[0], None)
            return jax.lax.scan(one, x, (stacked, first + jnp.arange(len(jax.tree.leaves(stacked)[0]))))[0]
        for index, p in enumerate(_unstack(stacked, len(jax.tree.leaves(stacked)[0]))):
            x, _ = body(p, x, None, first + index)
        return x

    plan = pipeline.schedule(
        ways("stage"), config.pipeline_rounds, config.pipeline_microbatches, count, batch, ways("batch")
    )
    return pipeline.run(chunk, plan, params[name], x, own)


def _body(
    config: BlockConfig, kind: Kind, context: Context
) -> Callable[[Params, Stream, LayerCache, Layer], tuple[Stream, LayerOutput]]:
    """(parameters, x, cache, layer) -> x, (cache, metrics), of one block that is computed again as the config says."""

    def body(p: Params, x: Stream, cache: LayerCache, layer: Layer) -> tuple[Stream, LayerOutput]:
        x, cache, metrics = block(config, kind, p, x, context, layer, cache)
        return x, (cache, metrics)

    policy = REMAT[config.remat]
    # Inside a scan nothing can merge the second computation with the first, so the barriers are not needed.
    return body if policy is None else jax.checkpoint(body, policy=policy, prevent_cse=not config.scan)


def _by_layer(metrics: list[dict[str, Float[Array, "_ ..."]]]) -> Metrics:
    """Metrics [repetitions] of each position of a pattern, which may differ by one, in the order of the layers."""
    if len(metrics) == 1 or not metrics[0]:
        return metrics[0]
    longest = max(len(values) for values in metrics[0].values())

    def ordered(*positions: Array) -> Array:
        rest = positions[0].shape[1:]
        rows = [jnp.pad(values, ((0, longest - len(values)), *((0, 0) for _ in rest))) for values in positions]
        return jnp.stack(rows, axis=1).reshape(-1, *rest)[: sum(map(len, positions))]

    return jax.tree.map(ordered, *metrics)


def _layers(stacked: T, index: int | slice) -> T:
    return jax.tree.map(lambda leaf: leaf[index], stacked)


def _append(stacked: T, single: T) -> T:
    return jax.tree.map(lambda many, one: jnp.concatenate([many, one[None]]), stacked, single)


def _unstack(stack: T, depth: int) -> list[T]:
    """The layers of a stack; unlike with indexing, the gradient is one concatenation, not a sum of padded arrays."""
    leaves, tree = jax.tree.flatten(stack)
    parts = [jax.lax.split(leaf, (1,) * depth, axis=0) for leaf in leaves]
    return [tree.unflatten([part[0] for part in layer]) for layer in zip(*parts, strict=True)]
