"""Self-attention behind one function that chooses an implementation and can say which and why."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from training import mesh, per_device
from training.errors import BadInput
from training.nets import cpu, tpu
from training.nets.primitives import upcast_to_f32

IMPLEMENTATIONS = ("auto", "blocked", "xla", "cudnn", "splash")


PLATFORMS = {"cudnn": "gpu", "splash": "tpu"}  # of implementations that are kernels


class Kernel(NamedTuple):
    """A kernel as a model uses it: the implementation, query heads to a key head, features of a head, compute dtype, whether
    queries see what precedes them only, how many keys of it (0: all), and whether documents are kept apart."""

    name: str
    group: int
    head_width: int
    dtype: str
    causal: bool
    window: int
    segmented: bool


kernels_used: set[Kernel] = set()  # by what this process has traced: see `training.nets.kernel_check`


class Choice(NamedTuple):
    """An implementation and the reason for it, for the record."""

    name: str
    reason: str


def choose(requested: str, head_width: int, dtype: str, platform: str | None = None, plain: bool = True) -> Choice:
    """The implementation that `attend` will use.

    Args:
      requested: one of `IMPLEMENTATIONS`; "auto" chooses by platform, any other name is taken as it is.
      head_width: features of a head.
      dtype: name of the compute dtype.
      platform: "cpu", "gpu" or "tpu"; None: that of the mesh's devices.
      plain: whether keys and values are of one width, and every query sees all keys before it.

    Raises:
      BadInput: there is no such implementation, or it cannot run this platform, dtype or head width.
    """
    platform = mesh.platform() if platform is None else platform
    if requested not in IMPLEMENTATIONS:
        raise BadInput(f"attention: {requested!r} is not one of {', '.join(IMPLEMENTATIONS)}")
    obstacles = {"cudnn": _cudnn_obstacle, "splash": _splash_obstacle, "blocked": _blocked_obstacle}
    name = (
        {"cpu": "blocked", "gpu": "cudnn", "tpu": "splash"}.get(platform, "xla") if requested == "auto" else requested
    )
    obstacle = obstacles[name](head_width, dtype, platform, plain) if name in obstacles else ""
    if requested != "auto":
        if obstacle:
            raise BadInput(f"attention: {name} cannot run here: {obstacle}")
        return Choice(name, "as configured")
    return (
        Choice("xla", f"auto on {platform}: no {name}, {obstacle}") if obstacle else Choice(name, f"auto on {platform}")
    )


def _splash_obstacle(head_width: int, dtype: str, platform: str, plain: bool) -> str:
    if platform != "tpu":
        return f"the platform is {platform}"
    if head_width % tpu.LANES:
        return f"the head width {head_width} is not a multiple of {tpu.LANES}"
    return "" if plain else "values are of another width than keys"


def _cudnn_obstacle(head_width: int, dtype: str, platform: str, plain: bool) -> str:
    if platform != "gpu":
        return f"the platform is {platform}"
    if dtype not in ("bfloat16", "float16"):
        return f"the compute dtype is {dtype}"
    if head_width % 8 or head_width > 128:
        return f"the head width {head_width} is not a multiple of 8 up to 128"
    if not plain:
        return "windows, and values of another width than keys, were not run with it"
    return ""


def _blocked_obstacle(head_width: int, dtype: str, platform: str, plain: bool) -> str:
    return "mesh.context splits sequences" if mesh.ways("length") > 1 else ""


def attend(
    q: Float[Array, "batch length heads width"],
    k: Float[Array, "batch length kv_heads width"],
    v: Float[Array, "batch length kv_heads values"],
    segments: Int[Array, "batch length"] | None,
    implementation: str,
    causal: bool = True,
    bias: Float[Array, "1 heads length length"] | None = None,
    window: int = 0,
) -> Float[Array, "batch length heads values"]:
    """softmax(q k / sqrt(width) + bias) v over the keys that a query may see, within its segment.

    Where devices share sequences out (the mesh axis "context"), queries stay, and keys and values are gathered.

    Args:
      q: queries; query head h attends with key head h // (heads // kv_heads).
      k: keys.
      v: values.
      segments: tokens attend only to tokens of an equal id; None: all one segment.
      implementation: "blocked", "xla", "cudnn" or "splash", the name in a `Choice`.
      causal: whether a query sees the keys at or before it only.
      bias: added to the scores (queries before keys), by the implementation "xla" alone; None: nothing.
      window: of causal attention, how many keys up to its own position a query sees; 0: all.
    """
    assert bias is None or implementation == "xla"
    assert causal or not window
    if implementation in PLATFORMS:
        group, dtype = q.shape[2] // k.shape[2], q.dtype.name
        kernels_used.add(Kernel(implementation, group, q.shape[3], dtype, causal, window, segments is not None))
    if implementation == "splash":
        return tpu.attend(q, k, v, segments, causal, window)
    if implementation == "blocked":
        return cpu.attend(q, k, v, segments, causal, window)
    if mesh.ways("length") > 1:
        if implementation == "cudnn":
            return _of_shards(q, k, v, segments, causal)
        k, v = per_device.gathered(k), per_device.gathered(v)
    if implementation == "cudnn":  # its partitioner fails where the devices of a head's queries share out its key head
        k, v = (
            mesh.constrain(per_device.with_heads_to_split(x, q.shape[2]), "batch", None, "heads", None) for x in (k, v)
        )
    mask = None if segments is None else (segments[:, None, :, None] == segments[:, None, None, :])
    if v.shape[-1] != k.shape[-1]:
        index = jnp.arange(q.shape[1])
        visible = (index <= index[:, None]) & (index > index[:, None] - (window or q.shape[1])) if causal else True
        return _attend(q, k, v, jnp.asarray(visible) if mask is None else visible & mask)
    return jax.nn.dot_product_attention(
        q,
        k,
        v,
        bias,
        mask,
        is_causal=causal,
        local_window_size=(window - 1, 0) if window else None,
        implementation=implementation,  # type: ignore[arg-type]
    )


def _of_shards(
    q: Float[Array, "batch length heads width"],
    k: Float[Array, "batch length kv_heads width"],
    v: Float[Array, "batch length kv_heads width"],
    segments: Int[Array, "batch length"] | None,
    causal: bool,
) -> Float[Array, "batch length heads width"]:
    """cuDNN's attention of each device's queries, whose place among the keys a mask says."""

    def local(q: Array, k: Array, v: Array, of_queries: Array | None, of_keys: Array | None, whole: None) -> Array:
        del whole
        place = jax.lax.axis_index("context") * q.shape[1] + jnp.arange(q.shape[1])
        seen = (jnp.arange(k.shape[1]) <= place[:, None])[None, None] if causal else None
        if of_queries is not None and of_keys is not None:
            same = of_queries[:, None, :, None] == of_keys[:, None, None, :]
            seen = same if seen is None else seen & same
        return jax.nn.dot_product_attention(q, k, v, mask=seen, implementation="cudnn")

    k, v = (per_device.with_heads_to_split(x, q.shape[2]) for x in (k, v))
    return per_device.by_queries(local, q, k, v, segments)


def _attend(
    q: Float[Array, "batch new heads width"],
    k: Float[Array, "batch length heads width"],
    v: Float[Array, "batch length heads values"],
    visible: Bool[Array, "... new length"],
) -> Float[Array, "batch new heads values"]:
    """The definition, for values of another width than keys; scores and softmax in float32."""
    scores = upcast_to_f32(jnp.einsum("bqhd,bkhd->bhqk", q, k)) * q.shape[-1] ** -0.5
    weights = jax.nn.softmax(jnp.where(visible, scores, -1e30)).astype(v.dtype)
    return jnp.einsum("bhqk,bkhd->bqhd", weights, v)


def attend_memory(
    q: Float[Array, "batch length heads width"],
    k: Float[Array, "batch memory heads width"],
    v: Float[Array, "batch memory heads width"],
    visible: Bool[Array, "batch memory"] | None,
) -> Float[Array, "batch length heads width"]:
    """Attention of a sequence over another, as far as `visible` says; None: all of it."""
    mask = None if visible is None else visible[:, None, None, :]
    return jax.nn.dot_product_attention(q, k, v, mask=mask, implementation="xla")


def attend_cache(
    q: Float[Array, "batch new heads width"],
    k: Float[Array, "batch length kv_heads width"],
    v: Float[Array, "batch length kv_heads values"],
    visible: Bool[Array, "new length"],
    bias: Float[Array, "1 heads new length"] | None = None,
) -> Float[Array, "batch new heads values"]:
    """Attention of new queries over a cache of keys and values, as far as `visible` says; `bias` is added to scores."""
    if v.shape[-1] != k.shape[-1]:
        return _attend(q, k, v, visible)
    return jax.nn.dot_product_attention(q, k, v, bias=bias, mask=visible[None, None], implementation="xla")


def attend_latents(
    content: Float[Array, "batch new heads width"],
    rotated: Float[Array, "batch new heads rope"],
    latents: Float[Array, "batch length rank"],
    shared: Float[Array, "batch length rope"],
    kernel: Float[Array, "rank heads 2 width"],
    visible: Bool[Array, "new length"],
) -> Float[Array, "batch new heads width"]:
    """Attention of new queries over a cache of latents, of which `kernel` makes the keys and values of every head: applied
    to the queries, and to the mixed latents, in place of the latents themselves.

    Args:
      content: of the queries.
      rotated: features of the queries that rotary positions have turned.
      latents: of the cache.
      shared: rotated features of the keys, which all heads share.
      kernel: of the keys, then of the values.
      visible: which keys a query sees.
    """
    scores = jnp.einsum("bqhd,rhd,bkr->bhqk", content, kernel[:, :, 0], latents)
    scores = upcast_to_f32(scores + jnp.einsum("bqhe,bke->bhqk", rotated, shared))
    scores *= (content.shape[-1] + rotated.shape[-1]) ** -0.5
    weights = jax.nn.softmax(jnp.where(visible, scores, -1e30)).astype(content.dtype)
    return jnp.einsum("bhqk,bkr,rhd->bqhd", weights, latents, kernel[:, :, 1])
