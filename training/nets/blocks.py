"""Transformer blocks: parameters, the pass through them scanned or unrolled, and what the backward pass computes again.

Activations are (batch x length, width) around projections, because the weight gradients of products with more dimensions
make XLA transpose copies of the activations.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array

from training.errors import BadInput
from training.mesh import constrain, ways
from training.nets import layers
from training.nets.initial import Leaf
from training.nets.rounding import rounded

NORMS = ("rms", "layer")
PLACEMENTS = ("pre", "post")
REMAT: dict[str, Any] = {
    "none": None,
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.save_from_both_policies(
        jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
        jax.checkpoint_policies.save_only_these_names("expert"),  # projections too, though stacked
    ),
}

Dropout = tuple[Array, Array]  # a key and a rate


class Blocks(Protocol):
    """What a model says of its blocks.

    Attributes:
      depth: blocks.
      width: features of the residual stream.
      heads: query heads; they divide the width.
      head_width: features of a head.
      kv_heads: key and value heads; they divide the query heads.
      mlp_width: hidden features of each block's MLP.
      norm: a name in `NORMS`.
      norm_eps: added to a norm's variance.
      activation: a name in `layers.ACTIVATIONS`.
      bias: whether projections and layer norms have biases.
      qk_norm: whether each head's queries and keys are RMS-normalised (Dehghani et al. 2023).
      parallel: whether attention and MLP read one norm and are added together (Wang and Komatsuzaki 2021).
      placement: "pre" (a branch reads the norm of the stream) or "post" (the stream is the norm of its sum with a branch, as
        in Vaswani et al. 2017).
      scan: one compiled block run `depth` times, instead of `depth` copies of it.
      remat: a name in `REMAT`: what the backward pass computes again.
    """

    @property
    def depth(self) -> int: ...

    @property
    def width(self) -> int: ...

    @property
    def heads(self) -> int: ...

    @property
    def kv_heads(self) -> int: ...

    @property
    def mlp_width(self) -> int: ...

    @property
    def norm(self) -> str: ...

    @property
    def norm_eps(self) -> float: ...

    @property
    def activation(self) -> str: ...

    @property
    def bias(self) -> bool: ...

    @property
    def qk_norm(self) -> bool: ...

    @property
    def parallel(self) -> bool: ...

    @property
    def placement(self) -> str: ...

    @property
    def scan(self) -> bool: ...

    @property
    def remat(self) -> str: ...

    @property
    def head_width(self) -> int: ...


def check(model: Blocks) -> None:
    """Raise BadInput where the shape or the names of the blocks contradict each other."""
    names = {"norm": NORMS, "activation": tuple(layers.ACTIVATIONS), "remat": tuple(REMAT), "placement": PLACEMENTS}
    for field, known in names.items():
        if getattr(model, field) not in known:
            raise BadInput(f"model.{field}: {getattr(model, field)!r} is not one of {', '.join(known)}")
    for field in ("depth", "width", "heads", "kv_heads", "mlp_width"):
        if getattr(model, field) < 1:
            raise BadInput(f"model.{field}: must be at least 1, got {getattr(model, field)}")
    if model.width % model.heads:
        raise BadInput(f"model.heads: {model.heads} does not divide the width {model.width}")
    if model.heads % model.kv_heads:
        raise BadInput(f"model.kv_heads: {model.kv_heads} does not divide the {model.heads} heads")
    if model.parallel and model.placement == "post":
        raise BadInput("model.parallel: attention and MLP read one norm, so it stands before them")


def leaves(model: Blocks, cross: bool = False) -> dict[str, Any]:
    """The parameters of one block, with `cross` one that also attends to a memory.

    Kernels have 1 / sqrt(fan in); after pre-norms, where the stream grows with the depth, those that write to it have that
    over the root of how many do."""
    d, writers = model.width, (3 if cross else 2) * model.depth
    residual = writers**-0.5 if model.placement == "pre" else 1.0
    q, kv = model.heads * model.head_width, model.kv_heads * model.head_width

    def projection(rows: int, columns: int, axes: tuple[str, str], factor: float = 1.0) -> dict[str, Leaf]:
        kernel = {"kernel": Leaf((rows, columns), axes, factor * rows**-0.5)}
        return kernel | ({"bias": Leaf((columns,), axes[1:])} if model.bias else {})

    attention_leaves = {
        "query": projection(d, q, ("embed", "heads")),
        "key": projection(d, kv, ("embed", "kv")),
        "value": projection(d, kv, ("embed", "kv")),
        "out": projection(q, d, ("heads", "embed"), residual),
    }
    if model.qk_norm:
        scale = Leaf((model.head_width,), (None,), offset=1.0)
        attention_leaves |= {"query_norm": {"scale": scale}, "key_norm": {"scale": scale}}
    mlp_leaves = {
        "up": projection(d, model.mlp_width, ("embed", "mlp")),
        "down": projection(model.mlp_width, d, ("mlp", "embed"), residual),
    }
    if layers.ACTIVATIONS[model.activation][1]:
        mlp_leaves["gate"] = projection(d, model.mlp_width, ("embed", "mlp"))
    tree = {"attention_norm": norm_leaves(model, d), "attention": attention_leaves, "mlp": mlp_leaves}
    if cross:
        tree |= {"cross_norm": norm_leaves(model, d), "cross": attention_leaves}
    return tree if model.parallel else tree | {"mlp_norm": norm_leaves(model, d)}


def norm_leaves(model: Blocks, width: int) -> dict[str, Leaf]:
    """The parameters of a norm of the model's kind."""
    scale = {"scale": Leaf((width,), (None,), offset=1.0)}
    return scale | ({"bias": Leaf((width,), (None,))} if model.norm == "layer" and model.bias else {})


def norm(model: Blocks, p: Any, x: Array) -> Array:
    """The model's norm of each row."""
    if model.norm == "rms":
        return layers.rms_norm(x, p["scale"], model.norm_eps)
    return layers.layer_norm(x, p["scale"], p.get("bias"), model.norm_eps)


def linear(p: Any, x: Array) -> Array:
    """The product with a kernel, and a bias where there is one; of rounded inputs where the parameters say so."""
    if "inputs" in p:
        x = rounded(x, p["inputs"], -1)
    return _biased(p, layers.product(x, p["kernel"].astype(x.dtype)))


def _biased(p: Any, y: Array) -> Array:
    return y + p["bias"].astype(y.dtype) if "bias" in p else y


def linears(parameters: Sequence[Any], x: Array) -> list[Array]:
    """`linear` of one input with each of these. On CPU, whose compiler does not merge products, they are one where no kernel
    is split by its columns: a wide product is faster than narrow ones, unless of few rows, as when text is generated, when
    laying the kernels side by side would take longer."""
    rows, features = x.shape[0], x.shape[-1]  # of an exported program, rows are a symbol
    many = isinstance(rows, int) and rows >= features
    merged = many and jax.default_backend() == "cpu" and ways("heads") == ways("kv") == 1
    if not merged or any("inputs" in p for p in parameters):
        return [linear(p, x) for p in parameters]
    kernels = [p["kernel"].astype(x.dtype) for p in parameters]
    whole = layers.product(x, jnp.concatenate(kernels, axis=1))
    parts = jax.lax.split(whole, [kernel.shape[1] for kernel in kernels], axis=whole.ndim - 1)
    return [_biased(p, y) for p, y in zip(parameters, parts, strict=True)]


def dropper(dropout: Dropout | None) -> Callable[[Array, Any, int], Array]:
    """Drops an activation at a (layer, place), each with its own key; the identity without dropout."""
    if dropout is None:
        return lambda x, layer, place: x
    key, rate = dropout
    return lambda x, layer, place: layers.dropout(
        x, jax.random.fold_in(jax.random.fold_in(key, layer + 1), place), rate
    )


def _block(
    model: Blocks,
    p: Any,
    x: Array,
    kept: Any,
    layer: Any,
    batch: int,
    turn: Any,
    mix: Any,
    drop: Any,
    cross: Any,
    feed: Any,
) -> tuple[Array, Any]:
    """One block: x (batch x length, width) and what `mix` and `feed` keep of this layer, to the same."""
    if model.parallel:
        y = norm(model, p["attention_norm"], x)
        mixed, kept = _attention(model, p["attention"], y, kept, batch, turn, mix)
        x = x + drop(mixed, layer, 0)
        fed, kept = feed(p["mlp"], y, kept)
        return constrain(x + drop(fed, layer, 1), "batch", None), kept

    def add(x: Array, branch: Callable[[Array], Array], name: str, place: int) -> Array:
        if model.placement == "post":
            return constrain(norm(model, p[name], x + drop(branch(x), layer, place)), "batch", None)
        return constrain(x + drop(branch(norm(model, p[name], x)), layer, place), "batch", None)

    def attention(x: Array) -> Array:
        nonlocal kept
        mixed, kept = _attention(model, p["attention"], x, kept, batch, turn, mix)
        return mixed

    def fed(x: Array) -> Array:
        nonlocal kept
        out, kept = feed(p["mlp"], x, kept)
        return out

    x = add(x, attention, "attention_norm", 0)
    if cross is not None:
        x = add(x, lambda y: cross(p["cross"], y, kept), "cross_norm", 2)
    return add(x, fed, "mlp_norm", 1), kept


def _attention(model: Blocks, p: Any, x: Array, kept: Any, batch: int, turn: Any, mix: Any) -> tuple[Array, Any]:
    parts = linears([p[name] for name in ("query", "key", "value")], x)
    q, k, v = (part.reshape(batch, -1, part.shape[-1] // model.head_width, model.head_width) for part in parts)
    if model.qk_norm:
        q = layers.rms_norm(q, p["query_norm"]["scale"], model.norm_eps)
        k = layers.rms_norm(k, p["key_norm"]["scale"], model.norm_eps)
    out, kept = mix(turn(q), turn(k), v, kept)
    return linear(p["out"], out.reshape(x.shape[0], -1)), kept


def mlp(model: Blocks, p: Any, x: Array, linear: Callable[[Any, Array], Array] = linear) -> Array:
    """The MLP of a block; `linear` is its product with a kernel."""
    activation, gated = layers.ACTIVATIONS[model.activation]
    y = activation(linear(p["gate"], x)) * linear(p["up"], x) if gated else activation(linear(p["up"], x))
    return linear(p["down"], y)


def run(
    model: Blocks,
    stack: Any,
    x: Array,
    kept: Any,
    *,
    batch: int,
    turn: Any,
    mix: Any,
    drop: Any,
    cross: Any = None,
    feed: Any = None,
) -> tuple[Array, Any]:
    """All blocks, one after another, scanned or unrolled.

    Args:
      stack: their parameters, with a leading axis of layers.
      x: the residual stream (batch x length, width).
      kept: what `mix` and `feed` are given of each layer, with a leading axis of layers, as what they return; None: nothing.
      batch: examples.
      turn: applied to queries and keys (batch, length, heads, head width): their positions.
      mix: attention, `(q, k, v, kept of the layer) -> (mixed values, kept of the layer)`.
      drop: `(x, layer, place) -> x`, of what a layer adds to the stream; see `dropper`.
      cross: attention to a memory, `(parameters, x, kept of the layer) -> what it adds`; None: there is none.
      feed: in place of the MLP, `(parameters, x, kept of the layer) -> (what it adds, kept of the layer)`; None: the MLP.
    """
    feed = feed or (lambda p, x, kept: (mlp(model, p, x), kept))

    def apply(p: Any, x: Array, kept: Any, layer: Any) -> tuple[Array, Any]:
        return _block(model, p, x, kept, layer, batch, turn, mix, drop, cross, feed)

    policy = REMAT[model.remat]
    if policy is not None:
        # Inside a scan nothing can merge the second computation with the first, so the barriers are not needed.
        apply = jax.checkpoint(apply, policy=policy, prevent_cse=not model.scan)
    if model.scan:
        index = jnp.arange(model.depth)
        return jax.lax.scan(lambda x, inputs: apply(inputs[0], x, inputs[1], inputs[2]), x, (stack, kept, index))
    after = []
    for layer, p in enumerate(_unstack(stack, model.depth)):
        x, layer_kept = apply(p, x, None, layer)
        after.append(layer_kept)
    return x, jax.tree.map(lambda *parts: jnp.stack(parts), *after)


def _unstack(stack: Any, depth: int) -> list[Any]:
    """The layers of a stack; unlike with indexing, the gradient is one concatenation, not a sum of padded arrays."""
    leaves, tree = jax.tree.flatten(stack)
    parts = [jax.lax.split(leaf, (1,) * depth, axis=0) for leaf in leaves]
    return [tree.unflatten([part[0] for part in layer]) for layer in zip(*parts, strict=True)]
