"""Mixtures of experts in the place of a block's MLP: where tokens are sent, what the experts make of them, and how evenly.

Of E experts, each an MLP, a token goes through the k to which its router gives the largest probabilities, and these weigh
what they put out (Shazeer et al. 2017, Lepikhin et al. 2020). Parameters of a block (d width; shapes without the layers):

    router/kernel              (d, E)
    {up,gate,down}/kernel      (E, d, mlp) and (E, mlp, d); gate only where the activation is gated
    {up,gate,down}/bias        (E, mlp) and (E, d); with biases only
    shared/{up,gate,down}/...  those of one MLP of width S mlp: the S shared experts, which every token goes through (Dai et
                               al. 2024)

Without a capacity no token is dropped: the tokens are sorted by expert, every device its own, and multiplied with the
kernels of all experts; where the mesh axis "expert" splits them, devices along it gather each other's tokens, multiply those
that chose their own experts, and sum what comes back. With one, experts take a fixed number of tokens of each example, first
come first served, and of what is dropped the residual stream alone goes on; that is a product with zeros and ones, which the
compiler partitions: tokens travel to where their expert lies. An example depends neither on the others of its batch nor on
the tokens that follow, so that loss and gradients are the same however a batch is split.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Int

from training import mesh, per_device
from training.errors import BadInput
from training.mesh import constrain
from training.nets.attention import Choice
from training.nets.block_config import BlockConfig, MoEConfig
from training.nets.ffn import mlp
from training.nets.ffn.feed_forward import FeedForward, FeedForwardCost, Metrics
from training.nets.initial import Leaf, Leaves, count
from training.nets.layers import projection
from training.nets.mixers.mixer import Context, Stream
from training.nets.primitives import upcast_to_f32
from training.types import Params

DISPATCHES = ("auto", "blocked", "ragged")


class Routed(NamedTuple):
    """Where tokens are sent.

    Attributes:
      chosen: the experts of each token, the likeliest first.
      gates: their weights.
      probabilities: of all experts.
      normaliser: logs of the normalisers of the router's softmax.
    """

    chosen: Int[Array, "*tokens k"]
    gates: Float[Array, "*tokens k"]
    probabilities: Float[Array, "*tokens experts"]
    normaliser: Float[Array, "*tokens"]


def of(config: BlockConfig) -> MoEConfig:
    """The mixture of a config that has one."""
    assert config.moe is not None
    return config.moe


def check(model: MoEConfig) -> None:
    """Raise BadInput where the fields of a mixture contradict each other."""
    if model.experts_per_token < 1:
        raise BadInput(f"model.experts_per_token: must be at least 1, got {model.experts_per_token}")
    if model.experts < model.experts_per_token:
        raise BadInput(f"model.experts: {model.experts} are fewer than the {model.experts_per_token} of a token")
    for field in ("shared_experts", "capacity_factor", "dense_layers"):
        if getattr(model, field) < 0:
            raise BadInput(f"model.{field}: must not be negative, got {getattr(model, field)}")
    choose(model.dispatch)


def choose(requested: str, platform: str | None = None) -> Choice:
    """How the products of sorted tokens with their experts' kernels are made, and why.

    Args:
      requested: one of `DISPATCHES`; "auto" chooses by platform.
      platform: "cpu", "gpu" or "tpu"; None: that of the mesh's devices.

    Raises:
      BadInput: there is no such way.
    """
    platform = mesh.platform() if platform is None else platform
    if requested not in DISPATCHES:
        raise BadInput(f"model.dispatch: {requested!r} is not one of {', '.join(DISPATCHES)}")
    if requested != "auto":
        return Choice(requested, "as configured")
    # On CPUs XLA multiplies every row with the kernels of all experts, and masks.
    return Choice("blocked" if platform == "cpu" else "ragged", f"auto on {platform}")


def slots(model: MoEConfig, length: int) -> int:
    """Tokens of an example of `length` that an expert takes at most, in training with a capacity."""
    return min(math.ceil(model.capacity_factor * length * model.experts_per_token / model.experts), length)


def parameters(config: BlockConfig) -> Leaves:
    """The leaves of one block; initial values as an MLP of each width has, the router's as of projections."""
    model = of(config)

    def stacked(leaf: Leaf) -> Leaf:
        return Leaf((model.experts, *leaf.shape), ("expert", *leaf.axes), leaf.std, leaf.offset)

    router = projection(config.width, model.experts, ("embed", None))
    tree = {"router": router, **jax.tree.map(stacked, mlp.parameters(config))}
    shared = model.shared_experts * config.mlp_width
    return tree | ({"shared": mlp.parameters(config, shared)} if shared else {})


def apply(config: BlockConfig, p: Params, x: Stream, context: Context) -> tuple[Stream, Metrics]:
    """What the experts add to the stream.

    In training experts have their capacity, and the metrics are those of `routing_metrics`. Otherwise no token is dropped.
    """
    model, taken = of(config), None
    routed = route(p["router"]["kernel"], x, model.experts_per_token, model.norm_topk_prob)
    if context.training and model.capacity_factor:
        y, taken = _capped(config, p, x, routed)
    else:
        y = _dropless(config, p, x, routed)
    if "shared" in p:
        y += mlp.apply(config, p["shared"], x)
    return y, routing_metrics(routed, taken) if context.training else {}


def cost(config: BlockConfig, length: int) -> FeedForwardCost:
    """FLOPs of the forward products of the experts, in training on an example of `length` tokens, by component.

    With a capacity all slots count, filled or not, and so do the products that send tokens to them ("dispatch", whose one
    factor is made of whole numbers) and bring them back ("combine")."""
    model, tokens = of(config), float(length)
    each = mlp.flops(config, 1.0, config.mlp_width)
    shared = tokens * model.shared_experts * each
    products = {"router": tokens * 2 * config.width * model.experts, "shared": shared}
    if model.capacity_factor:
        places = float(model.experts * slots(model, length))
        moved = tokens * 2 * places * config.width
        products |= {"mlp": places * each, "dispatch": moved, "combine": moved}
    else:
        products |= {"mlp": tokens * model.experts_per_token * each, "dispatch": 0.0, "combine": 0.0}
    # What brings tokens back only enters the stream too; that of routed experts is weighed by gates, which need it.
    return FeedForwardCost(products, shared / mlp.matrices(config) + products["combine"])


def _idle(config: BlockConfig) -> int:
    model = of(config)
    return (model.experts - model.experts_per_token) * count(mlp.parameters(config))


def route(
    kernel: Float[Array, "width experts"], x: Float[Array, "*tokens width"], k: int, norm_topk_prob: bool
) -> Routed:
    """The k likeliest experts of each token, in float32 whatever the rest of the model computes in.

    Args:
      kernel: of the router.
      x: tokens.
      k: experts of a token.
      norm_topk_prob: whether a token's weights sum to one; else they are the probabilities among all experts.
    """
    logits = jnp.matmul(upcast_to_f32(x), upcast_to_f32(kernel), precision=jax.lax.Precision.HIGHEST)
    normaliser = jax.nn.logsumexp(logits, axis=-1)
    probabilities = jnp.exp(logits - normaliser[..., None])
    gates, chosen = jax.lax.top_k(probabilities, k)
    return Routed(
        chosen, gates / jnp.sum(gates, axis=-1, keepdims=True) if norm_topk_prob else gates, probabilities, normaliser
    )


def routing_metrics(routed: Routed, taken: Float[Array, ""] | None = None) -> Metrics:
    """Metrics of a layer's routing, each summed over tokens.

    load_balancing_loss: experts times the sum, over them, of the share of an example's choices that fall on one and its mean
      probability (Fedus et al. 2021, equations 4 to 6, with examples in place of the batch); 1 where all is even.
    router_z_loss: squared logs of the router's normalisers (Zoph et al. 2022, equation 5).
    dropped: the share of a token's choices that no expert took.

    Args:
      routed: choices of the tokens [batch, length].
      taken: choices that experts took; None: all.
    """
    (batch, length, k), experts = routed.chosen.shape, routed.probabilities.shape[-1]
    share = jnp.mean(_among(routed.chosen, experts), axis=1) / k
    mean = jnp.mean(routed.probabilities, axis=1)
    return {
        "load_balancing_loss": length * experts * jnp.sum(share * mean),
        "router_z_loss": jnp.sum(jnp.square(routed.normaliser)),
        "dropped": jnp.zeros(()) if taken is None else batch * length - taken / k,
    }


def _among(chosen: Int[Array, "*tokens k"], experts: int) -> Float[Array, "*tokens experts"]:
    """One where a token chose an expert, else zero."""
    return jnp.sum(chosen[..., None] == jnp.arange(experts), axis=-2, dtype=jnp.float32)


# With a capacity: every expert has `slots` of each example. -------------------------------------------------------------


def _capped(
    config: BlockConfig, p: Params, x: Float[Array, "batch length width"], routed: Routed
) -> tuple[Float[Array, "batch length width"], Float[Array, ""]]:
    """What the experts make of the tokens that they have room for, and how many choices these were."""
    model = of(config)
    chose = constrain(_among(routed.chosen, model.experts), "batch", None, None)
    earlier = jnp.cumsum(chose, axis=1) - chose
    free = earlier[..., None] == jnp.arange(slots(model, chose.shape[1]))
    sent = chose[..., None] * free  # (batch, length, expert, slot)
    each = jnp.sum(routed.gates[..., None] * (routed.chosen[..., None] == jnp.arange(model.experts)), axis=-2)

    def linear(p: Params, rows: Array) -> Array:
        y = jnp.einsum("ebsi,eij->ebsj", rows, p["kernel"].astype(rows.dtype))
        y = y + p["bias"].astype(rows.dtype)[:, None, None] if "bias" in p else y
        return checkpoint_name(y, "expert")

    rows = jnp.einsum("btes,btd->ebsd", sent.astype(x.dtype), constrain(x, "batch", "length", None))
    # First where the example lies, then where the expert lies: that is an exchange of slots, not a copy of all tokens.
    rows = constrain(constrain(rows, None, "batch", None, None), "expert", "group", None, None)
    out = constrain(mlp.apply(config, p, checkpoint_name(rows, "expert"), linear), "expert", "group", None, None)
    out = constrain(out, None, "batch", None, None)
    y = jnp.einsum("btes,ebsd->btd", (sent * each[..., None]).astype(x.dtype), out)
    return constrain(y, "batch", "length", None), jnp.sum(sent)


# Without: tokens sorted by expert. --------------------------------------------------------------------------------------


def _dropless(
    config: BlockConfig, p: Params, x: Float[Array, "batch length width"], routed: Routed
) -> Float[Array, "batch length width"]:
    """What the experts make of all tokens, each device of its own or, along "expert", of its own experts."""
    experts = {name: p[name] for name in ("up", "gate", "down") if name in p}
    tokens, shares = (x, routed.chosen, routed.gates), mesh.ways("expert")
    if shares == 1 or of(config).experts % shares or x.shape[0] % mesh.ways("batch"):
        return per_device.by_tokens(functools.partial(_of_experts, config), tokens, experts)
    return per_device.by_tokens(functools.partial(_exchanged, config), tokens, experts, whole_split=mesh.spec("expert"))


def _exchanged(
    config: BlockConfig,
    x: Float[Array, "batch length width"],
    chosen: Int[Array, "batch length k"],
    gates: Float[Array, "batch length k"],
    p: Params,
) -> Float[Array, "batch length width"]:
    """What all experts make of a device's tokens, of which it has some (`p`): the tokens of all devices along "expert" are
    gathered, and what each makes of them is summed where they came from. There is room for the case that all choose the
    experts of one device, so that none is dropped."""
    axis = "expert"
    everyone = (jax.lax.all_gather(part, axis, tiled=True) for part in (x, chosen, gates))
    x, chosen, gates = everyone
    first = jax.lax.axis_index(axis) * p["up"]["kernel"].shape[0]
    y = _of_experts(config, x, chosen - first, gates, p)
    return jax.lax.psum_scatter(y, axis, tiled=True)


def _of_experts(
    config: BlockConfig,
    x: Float[Array, "batch length width"],
    chosen: Int[Array, "batch length k"],
    gates: Float[Array, "batch length k"],
    p: Params,
) -> Float[Array, "batch length width"]:
    """What these experts make of all tokens; choices of experts that are not among them add nothing."""
    model, shape, experts = of(config), x.shape, p["up"]["kernel"].shape[0]
    x, chosen, gates = (part.reshape(-1, part.shape[-1]) for part in (x, chosen, gates))
    (tokens, k), blocked, some = chosen.shape, choose(model.dispatch).name == "blocked", experts < model.experts
    # Blocks of a quarter of an expert's even share: of the rows, about an eighth is filled up.
    size = max(tokens * k // (4 * model.experts), 16) if blocked else 1
    there, back, begins = _places(chosen.reshape(-1), experts, size, k)

    def named(y: Array) -> Array:
        return y if some else checkpoint_name(y, "expert")  # most rows of some experts are empty, and not kept

    def linear(p: Params, rows: Array) -> Array:
        kernel, bias = p["kernel"].astype(rows.dtype), p["bias"].astype(rows.dtype) if "bias" in p else None
        if not blocked:
            y = jax.lax.ragged_dot(rows, kernel, jnp.diff(begins))
            y = y if bias is None else y + bias[jnp.take(chosen, there, mode="clip")]
            return named(jnp.where((there < tokens * k)[:, None], y, 0) if some else y)
        starts = jnp.arange(len(there) // size) * size
        owners = jnp.sum(begins[1:-1] <= starts[:, None], axis=1)  # blocks that nobody needs are the last expert's
        y = jnp.einsum("bri,bij->brj", rows.reshape(-1, size, rows.shape[-1]), kernel[owners])
        y = y if bias is None else y + bias[owners][:, None]
        return named(y.reshape(len(there), -1))

    out = _moved(mlp.apply(config, p, _moved(jnp.repeat(x, k, axis=0), there, back), linear), back, there)
    return jnp.sum(upcast_to_f32(out).reshape(tokens, k, -1) * gates[:, :, None], axis=1).astype(x.dtype).reshape(shape)


def _places(
    chosen: Int[Array, " choices"], experts: int, size: int, per_token: int
) -> tuple[Int[Array, " rows"], Int[Array, " choices"], Int[Array, " begins"]]:
    """Choices sorted by expert, in rows of which each expert has a multiple of `size`.

    Args:
      chosen: the expert of each choice; below 0 or from `experts` on: none of these, and no row.
      experts: their number.
      size: of a block of rows.
      per_token: choices of a token, all of different experts.
    Returns:
      The choice that stands in each row, or their number where there is none; the row of each choice, or the number of rows;
      and the row where each expert begins, with that after the last.
    """
    count = chosen.shape[0]  # a symbol where a model is exported for any number of tokens, as long as the size is one
    index = jnp.arange(count, dtype=jnp.int32)
    most = count // per_token * min(per_token, experts)
    # Each expert that has rows at all fills up at most size - 1.
    rows = most if size == 1 else (most + min(experts, most) * (size - 1)) // size * size
    chosen = jnp.where((chosen >= 0) & (chosen < experts), chosen, experts)
    order = jnp.argsort(chosen, stable=True)
    counts = jnp.bincount(chosen, length=experts + 1)[:experts]
    begins = jnp.pad(jnp.cumsum(-(-counts // size) * size), (1, 0))
    owner = chosen[order]
    row = jnp.where(owner < experts, begins[owner] + index - jnp.pad(jnp.cumsum(counts), (1, 0))[owner], rows)
    there = jnp.full(rows, count, jnp.int32).at[row].set(order, mode="drop")
    return there, jnp.zeros(count, jnp.int32).at[order].set(row), begins


@jax.custom_vjp
def _moved(rows: Array, there: Array, back: Array) -> Array:
    """rows[there], zero where `there` lies beyond them; `back` is the inverse, so that the gradient is a gather too."""
    return rows.at[there].get(mode="fill", fill_value=0)


_moved.defvjp(
    lambda rows, there, back: (_moved(rows, there, back), (there, back)),
    lambda places, grad: (_moved(grad, places[1], places[0]), None, None),
)


FEED_FORWARD = FeedForward(parameters, apply, cost, _idle)
