"""MLP-Mixer (Tolstikhin et al. 2021): patches as tokens, and two MLPs a block, across tokens and across features.

Parameters (L layers, d width, n patches of p x p x c):

    patch/{kernel,bias}                           (p p c, d)
    blocks/{token,channel}_norm/{scale,bias}      (L, d)
    blocks/token_mlp/{up,down}/{kernel,bias}      (L, n, token_width) and back
    blocks/channel_mlp/{up,down}/{kernel,bias}    (L, d, mlp_width) and back
    final_norm/{scale,bias}                       (d,)
    head/{kernel,bias}                            (d, classes)

Initial values: kernels are normal with standard deviation 1 / sqrt(fan in), those that write to the residual stream over
sqrt(2 L); the head is zero.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from training.cost import Cost
from training.errors import BadInput
from training.nets import layers
from training.nets.initial import Leaf, Leaves, parameters
from training.types import Collections, Params
from vision.layers import Classifier, Images, Rates, Variables, cut, head

NORM_EPS = 1e-6

# depth, width, channel MLP width, token MLP width: Tolstikhin et al. 2021, table 1.
VARIANTS: dict[str, tuple[int, int, int, int]] = {
    "S": (8, 512, 2048, 256),
    "B": (12, 768, 3072, 384),
    "L": (24, 1024, 4096, 512),
    "H": (32, 1280, 5120, 640),
}


class Mixer(Classifier):
    """A classifier of images.

    Attributes:
      classes: numbers to tell apart.
      image: height, width and channels of an image.
      patch: side of a square patch; it divides height and width.
      depth, width: blocks and their features.
      mlp_width, token_width: hidden features of the MLPs across features and across tokens.
      dropout: whether what a block adds is dropped in training; the rate is an argument.
      param_dtype, compute_dtype, logit_dtype: names of dtypes.
    """

    classes: int
    image: tuple[int, int, int]
    patch: int
    depth: int
    width: int
    mlp_width: int
    token_width: int
    dropout: bool = False
    param_dtype: str = "float32"
    compute_dtype: str = "float32"
    logit_dtype: str = "float32"

    @property
    def length(self) -> int:
        """Patches of an image."""
        return (self.image[0] // self.patch) * (self.image[1] // self.patch)

    @nn.compact
    def parameters(self, init_scale: Float[Array, ""] | float = 1.0) -> Params:
        """The parameter tree, as in `layers.Classifier`."""
        stacks = {"blocks": (block(self), self.depth)}
        return parameters(self, top(self), stacks, init_scale, self.param_dtype)

    def features(
        self,
        variables: Variables,
        images: Images,
        key: Array | None = None,
        rates: Rates | None = None,
        train: bool = False,
    ) -> tuple[Float[Array, "batch features"], Collections]:
        """The mean of the tokens, as in `layers.Classifier`."""
        params = variables["params"]
        drop = layers.dropper((key, rates["dropout"]) if self.dropout and key is not None and rates else None)
        x = layers.linear(params["patch"], cut(images.astype(self.compute_dtype), self.patch))
        for layer in range(self.depth):
            p = jax.tree.map(lambda leaf, layer=layer: leaf[layer], params["blocks"])
            mixed = jnp.swapaxes(_mlp(p["token_mlp"], jnp.swapaxes(_norm(p["token_norm"], x), 1, 2)), 1, 2)
            x = x + drop(mixed, layer, 0)
            x = x + drop(_mlp(p["channel_mlp"], _norm(p["channel_norm"], x)), layer, 1)
        return jnp.mean(_norm(params["final_norm"], x), axis=1), {}


def _norm(p: Params, x: Array) -> Array:
    return layers.layer_norm(x, p["scale"], p["bias"], NORM_EPS)


def _mlp(p: Params, x: Array) -> Array:
    return layers.linear(p["down"], layers.gelu(layers.linear(p["up"], x)))


def variant(name: str) -> dict[str, int]:
    """The shape of a published model, with its patch: "B/16".

    Raises:
      BadInput: there is no such name.
    """
    size, slash, patch = name.partition("/")
    if size not in VARIANTS or not slash or not patch.isdigit():
        raise BadInput(f"model.variant: no {name!r}; known: {', '.join(VARIANTS)}, with a patch as in B/16")
    shape = dict(zip(("depth", "width", "mlp_width", "token_width"), VARIANTS[size], strict=True))
    return shape | {"patch": int(patch)}


def check(model: Mixer) -> None:
    """Raise BadInput where the fields of a model contradict each other."""
    for field in ("depth", "width", "mlp_width", "token_width"):
        if getattr(model, field) < 1:
            raise BadInput(f"model.{field}: must be at least 1, got {getattr(model, field)}")
    for side in model.image[:2]:
        if model.patch < 1 or side % model.patch:
            raise BadInput(f"model.patch: {model.patch} does not divide the image's {side} pixels")


def top(model: Mixer) -> Leaves:
    """The parameters outside the blocks."""
    pixels, d = model.patch**2 * model.image[2], model.width
    return {
        "patch": {"kernel": Leaf((pixels, d), ("in", "embed"), pixels**-0.5), "bias": Leaf((d,), ("embed",))},
        "final_norm": _norm_leaves(d),
        "head": head(d, model.classes),
    }


def block(model: Mixer) -> Leaves:
    """The parameters of one block."""
    residual = (2 * model.depth) ** -0.5

    def mlp(outer: int, inner: int, axis: str | None) -> Leaves:
        up = {"kernel": Leaf((outer, inner), (axis, "mlp"), outer**-0.5), "bias": Leaf((inner,), ("mlp",))}
        down = {"kernel": Leaf((inner, outer), ("mlp", axis), residual * inner**-0.5), "bias": Leaf((outer,), (axis,))}
        return {"up": up, "down": down}

    return {
        "token_norm": _norm_leaves(model.width),
        "token_mlp": mlp(model.length, model.token_width, "length"),
        "channel_norm": _norm_leaves(model.width),
        "channel_mlp": mlp(model.width, model.mlp_width, "embed"),
    }


def _norm_leaves(width: int) -> dict[str, Leaf]:
    return {"scale": Leaf((width,), (None,), offset=1.0), "bias": Leaf((width,), (None,))}


def cost(model: Mixer) -> Cost:
    """Parameters and forward products of one image."""
    d, n, tokens, channels = model.width, model.length, model.token_width, model.mlp_width
    pixels = model.patch**2 * model.image[2]
    params = {
        "patch": (pixels + 1) * d,
        "token_mlp": model.depth * ((n + 1) * tokens + (tokens + 1) * n),
        "channel_mlp": model.depth * ((d + 1) * channels + (channels + 1) * d),
        "norm": (4 * model.depth + 2) * d,
        "head": (d + 1) * model.classes,
    }
    products = {
        "patch": 2.0 * n * pixels * d,
        "token_mlp": model.depth * 4.0 * n * tokens * d,
        "channel_mlp": model.depth * 4.0 * n * d * channels,
        "head": 2.0 * d * model.classes,
    }
    return Cost(params, ("patch",), products, products, tokens_per_example=n, from_data=products["patch"])
