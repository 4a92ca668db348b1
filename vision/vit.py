"""The vision transformer (Dosovitskiy et al. 2020): patches as tokens, pre-norm blocks with full attention, one pool.

Parameters (L layers, d width, n patches of p x p x c; the blocks are those of `training/nets/stack.py`, with biases):

    patch/{kernel,bias}                (p p c, d)
    class_token/embedding              (1, d)           pool "token" only
    register/embedding                 (registers, d)   where there are registers
    position/embedding                 (n or 1 + n, d)  learned positions only
    blocks/...                         (L, ...)
    final_norm/{scale,bias}            (d,)
    pool/probe                         (1, d)           pool "attention" only, beside {query,key,value,out}, norm and mlp
    head/{kernel,bias}                 (d, classes)

Initial values: kernels are normal with standard deviation 1 / sqrt(fan in), those that write to the residual stream over
sqrt(2 L); tokens, registers and positions normal with 0.02; the head is zero, so that training starts at log(classes).
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from training.cost import Cost
from training.errors import BadInput
from training.mesh import constrain
from training.nets import costs, initial, stack
from training.nets.attention import Choice, choose
from training.nets.block_config import BlockConfig
from training.nets.ffn import mlp
from training.nets.initial import Leaf, Leaves, count
from training.nets.layers import Drop, Layer, dropper, linear, linears, norm, norm_leaves, rms_norm
from training.nets.mixers import attention
from training.nets.mixers.mixer import Context
from training.types import Collections, Params
from vision.layers import Classifier, Images, Rates, Variables, cut, head

POOLS = ("token", "mean", "attention")
POSITIONS = ("learned", "sincos")
EMBEDDING = ("patch", "position")
BLOCKS = {"norm": "layer", "norm_eps": 1e-6, "bias": True}  # of every vision transformer
SMALL = 0.02  # standard deviation of tokens and positions

# depth, width, heads, MLP width: Dosovitskiy et al. 2020, table 1; Touvron et al. 2020 (Ti, S); Zhai et al. 2021, table 2
# (g, G); Alabdulmohsin et al. 2023, section 4 (So400m).
VARIANTS: dict[str, tuple[int, int, int, int]] = {
    "Ti": (12, 192, 3, 768),
    "S": (12, 384, 6, 1536),
    "B": (12, 768, 12, 3072),
    "L": (24, 1024, 16, 4096),
    "So400m": (27, 1152, 16, 4304),
    "H": (32, 1280, 16, 5120),
    "g": (40, 1408, 16, 6144),
    "G": (48, 1664, 16, 8192),
}


class ViT(Classifier):
    """A classifier of images.

    Attributes:
      classes: numbers to tell apart.
      image: height, width and channels of an image.
      patch: side of a square patch; it divides height and width.
      blocks: shape and kind of the blocks: pre-norm layers with biases.
      pool: "token" (a class token is read), "mean" (of the patches) or "attention" (a learned probe attends to them).
      positions: "learned" or "sincos" (fixed, in two dimensions).
      registers: further tokens that nothing reads (Darcet et al. 2023).
      dropout, stochastic_depth: whether activations, or a block's whole branch for an example, are dropped in training;
        the rates are arguments.
      param_dtype, compute_dtype, logit_dtype: names of dtypes.
    """

    classes: int
    image: tuple[int, int, int]
    patch: int
    blocks: BlockConfig
    pool: str = "mean"
    positions: str = "learned"
    registers: int = 0
    dropout: bool = False
    stochastic_depth: bool = False
    param_dtype: str = "float32"
    compute_dtype: str = "float32"
    logit_dtype: str = "float32"

    @property
    def width(self) -> int:
        """Features of a token."""
        return self.blocks.width

    @property
    def grid(self) -> tuple[int, int]:
        """Patches down and across."""
        return self.image[0] // self.patch, self.image[1] // self.patch

    @property
    def length(self) -> int:
        """Tokens of an image: its patches, the class token and the registers."""
        return self.grid[0] * self.grid[1] + (self.pool == "token") + self.registers

    @property
    def attention_choice(self) -> Choice:
        """The attention implementation that this model uses here, and why."""
        return choose(self.blocks.attention, self.blocks.head_width, self.compute_dtype)

    @nn.compact
    def parameters(self, init_scale: Float[Array, ""] | float = 1.0) -> Params:
        """The parameter tree, as in `layers.Classifier`."""
        check(self)
        return initial.parameters(self, top(self), stack.stacks(self.blocks), init_scale, self.param_dtype)

    def features(
        self,
        variables: Variables,
        images: Images,
        key: Array | None = None,
        rates: Rates | None = None,
        train: bool = False,
    ) -> tuple[Float[Array, "batch features"], Collections]:
        """The pooled tokens, as in `layers.Classifier`."""
        del train
        params, config = variables["params"], self.blocks
        drop = _dropper(self, key, rates, images.shape[0])
        x = drop(_embed(self, params, images), -1, 0)
        x, _ = stack.apply(config, stack.parameters_of(config, params), x, self._context(drop))
        return _pool(self, params, norm(config, params["final_norm"], x)), {}

    def attention_maps(self, variables: Variables, images: Images) -> Float[Array, "depth batch heads length length"]:
        """The softmax of every block's attention: how much each token (last axis but one) takes from each."""
        params, config, maps = variables["params"], self.blocks, []
        context, x = self._context(dropper(None)), _embed(self, params, images)
        for layer in range(config.depth):
            p = jax.tree.map(lambda leaf, layer=layer: leaf[layer], params["blocks"])
            maps.append(attention.maps(config, p["attention"], norm(config, p["attention_norm"], x), context))
            x, _, _ = stack.block(config, stack.Kind("attention", "mlp"), p, x, context, layer)
        return jnp.stack(maps)

    def _context(self, drop: Drop) -> Context:
        positions = jnp.arange(self.length, dtype=jnp.int32)
        return stack.context(self.blocks, positions, attention=self.attention_choice.name, causal=False, drop=drop)


def variant(name: str) -> dict[str, int]:
    """The shape of a published model, with its patch: "B/16".

    Raises:
      BadInput: there is no such name.
    """
    size, slash, patch = name.partition("/")
    if size not in VARIANTS or not slash or not patch.isdigit():
        raise BadInput(f"model.variant: no {name!r}; known: {', '.join(VARIANTS)}, with a patch as in B/16")
    return dict(zip(("depth", "width", "heads", "mlp_width"), VARIANTS[size], strict=True)) | {"patch": int(patch)}


def check(model: ViT) -> None:
    """Raise BadInput where the fields of a model contradict each other."""
    stack.check(model.blocks)
    for field, known in {"pool": POOLS, "positions": POSITIONS}.items():
        if getattr(model, field) not in known:
            raise BadInput(f"model.{field}: {getattr(model, field)!r} is not one of {', '.join(known)}")
    for side in model.image[:2]:
        if model.patch < 1 or side % model.patch:
            raise BadInput(f"model.patch: {model.patch} does not divide the image's {side} pixels")
    if model.positions == "sincos" and model.width % 4:
        raise BadInput(f"model.positions: sincos needs a width that 4 divides, got {model.width}")
    if model.registers < 0:
        raise BadInput(f"model.registers: must not be negative, got {model.registers}")


def top(model: ViT) -> Leaves:
    """The parameters outside the blocks."""
    d, pixels = model.width, model.patch**2 * model.image[2]
    tree: Leaves = {
        "patch": {"kernel": Leaf((pixels, d), ("in", "embed"), pixels**-0.5), "bias": Leaf((d,), ("embed",))},
        "final_norm": norm_leaves(model.blocks, d),
        "head": head(d, model.classes),
    }
    rows = {
        "class_token": int(model.pool == "token"),
        "register": model.registers,
        "position": _placed(model) if model.positions == "learned" else 0,
    }
    for name, number in rows.items():
        if number:
            tree[name] = {"embedding": Leaf((number, d), ("position", "embed"), SMALL)}
    if model.pool == "attention":
        one = stack.block_leaves(model.blocks, stack.Kind("attention", "mlp"))
        probe = {"probe": Leaf((1, d), ("position", "embed"), SMALL)}
        tree["pool"] = probe | {"attention": one["attention"], "norm": one["mlp_norm"], "mlp": one["mlp"]}
    return tree


def cost(model: ViT) -> Cost:
    """Parameters and forward products of one image."""
    d, length, tree = model.width, model.length, top(model)
    pixels, products = model.patch**2 * model.image[2], costs.forward(model.blocks, length)
    products = {"patch": 2.0 * model.grid[0] * model.grid[1] * pixels * d, **products, "head": 2.0 * d * model.classes}
    blocks = costs.parameters(model.blocks)
    params = {
        "patch": count(tree["patch"]),
        "position": count(tree.get("position", {})),
        "token": count([tree.get(name, {}) for name in ("class_token", "register")]),
        **blocks,
        "norm": blocks["norm"] + count(tree["final_norm"]),
        "head": count(tree["head"]),
    }
    if model.pool == "attention":
        params["pool"] = count(tree["pool"])
        once = costs.forward(dataclasses.replace(model.blocks, depth=1), length)
        # Keys and values are of all tokens; the query, the output and the MLP of one.
        products["pool"] = once["attention"] / 2 + (once["attention"] / 2 + once["scores"] + once["mlp"]) / length
    return Cost(
        params=params,
        embedding=EMBEDDING,
        forward=products,
        forward_causal=products,
        tokens_per_example=length,
        recompute=costs.recompute(model.blocks, length),
        from_data=products["patch"],
    )


def sincos(grid: tuple[int, int], width: int) -> Float[np.ndarray, "patches width"]:
    """Fixed positions in two dimensions: a quarter of the features each for sine and cosine, down and across.

    Frequencies fall from one to 1e-4 as in Vaswani et al. 2017; for images Beyer et al. 2022, arXiv 2205.01580.
    """
    down, across = (places.ravel() for places in np.mgrid[: grid[0], : grid[1]])
    frequency = 1e-4 ** (np.arange(width // 4) / max(width // 4 - 1, 1))
    angles = [places[:, None] * frequency for places in (across, down)]
    return np.concatenate([turn(angle) for angle in angles for turn in (np.sin, np.cos)], axis=1).astype(np.float32)


def _placed(model: ViT) -> int:
    """Tokens that have a position: the patches, and the class token before them."""
    return model.grid[0] * model.grid[1] + (model.pool == "token")


def _embed(model: ViT, params: Params, images: Array) -> Float[Array, "batch length width"]:
    """Tokens: class token, patches row by row, registers."""
    if images.shape[1:] != model.image:
        raise BadInput(f"images of {images.shape[1:]} do not fit a model of {model.image}")
    batch, dtype = images.shape[0], jnp.dtype(model.compute_dtype)
    rows = cut(images.astype(dtype), model.patch)
    x = linear(params["patch"], rows)

    def repeated(name: str) -> Array:
        table = params[name]["embedding"].astype(dtype)
        return jnp.broadcast_to(table, (batch, *table.shape))

    if model.positions == "sincos":
        x = x + sincos(model.grid, model.width).astype(dtype)
    if model.pool == "token":
        x = jnp.concatenate([repeated("class_token"), x], axis=1)
    if model.positions == "learned":
        x = x + params["position"]["embedding"].astype(dtype)
    if model.registers:
        x = jnp.concatenate([x, repeated("register")], axis=1)
    return constrain(x, "batch", "length", None)


def _pool(model: ViT, params: Params, x: Array) -> Array:
    """One vector an image (batch, width) from its normalised tokens."""
    if model.pool == "token":
        return x[:, 0]
    if model.pool == "mean":
        return jnp.mean(x[:, : _placed(model)], axis=1)
    p, batch, config = params["pool"], x.shape[0], model.blocks
    heads = (batch, -1, config.heads, config.head_width)
    q = linear(p["attention"]["query"], p["probe"].astype(x.dtype))
    q = jnp.broadcast_to(q, (batch, model.width)).reshape(heads)
    k, v = (part.reshape(heads) for part in linears([p["attention"]["key"], p["attention"]["value"]], x))
    if config.qk_norm:
        q, k = (
            rms_norm(a, p["attention"][f"{n}_norm"]["scale"], config.norm_eps) for a, n in ((q, "query"), (k, "key"))
        )
    mixed = jax.nn.dot_product_attention(q, k, v, implementation="xla").reshape(batch, model.width)
    pooled = linear(p["attention"]["out"], mixed)
    return pooled + mlp.apply(config, p["mlp"], norm(config, p["norm"], pooled))


def _dropper(model: ViT, key: Array | None, rates: Rates | None, batch: int) -> Drop:
    """Drops activations, and whole branches of an example ever more often with depth (Huang et al. 2016)."""
    if key is None:
        return dropper(None)
    assert rates is not None
    element, branch = jax.random.split(key)
    elements = dropper((element, rates["dropout"]) if model.dropout else None)
    if not model.stochastic_depth:
        return elements

    def drop(x: Array, layer: Layer, place: int) -> Array:
        x = elements(x, layer, place)
        if isinstance(layer, int) and layer < 0:
            return x
        rate = rates["stochastic_depth"] * layer / max(model.blocks.depth - 1, 1)
        own = jax.random.fold_in(jax.random.fold_in(branch, layer), place)
        keep = jax.random.bernoulli(own, 1.0 - rate, (batch, 1, 1)) / (1.0 - rate)
        return x * keep.astype(x.dtype)

    return drop
