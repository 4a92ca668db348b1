"""Attention of a block's tokens over a memory; parameters as of `training.nets.mixers.attention`."""

from jaxtyping import Array, Float

from training.nets.attention import attend_memory
from training.nets.block_config import BlockConfig
from training.nets.layers import linear, linears, rms_norm
from training.nets.mixers.mixer import Context, MixerCost, Stream
from training.types import Params

Memory = Float[Array, "batch memory width"]
Remembered = tuple[Float[Array, "batch memory heads head_width"], Float[Array, "batch memory heads head_width"]]


def remember(config: BlockConfig, p: Params, memory: Memory) -> Remembered:
    """Keys and values of a memory."""
    parts = linears([p["key"], p["value"]], memory)
    k, v = (part.reshape(*memory.shape[:2], config.heads, -1) for part in parts)
    return (rms_norm(k, p["key_norm"]["scale"], config.norm_eps) if config.qk_norm else k), v


def apply(config: BlockConfig, p: Params, x: Stream, context: Context, remembered: Remembered | None) -> Stream:
    """What is added to the stream; without `remembered`, keys and values are made of the context's memory."""
    if remembered is None:
        assert context.memory is not None
        remembered = remember(config, p, context.memory)
    q = linear(p["query"], x).reshape(*x.shape[:2], config.heads, config.head_width)
    if config.qk_norm:
        q = rms_norm(q, p["query_norm"]["scale"], config.norm_eps)
    return linear(p["out"], attend_memory(q, *remembered, context.visible_memory).reshape(*x.shape[:2], -1))


def cost(config: BlockConfig, length: int, memory: int) -> MixerCost:
    """FLOPs over `length` tokens that attend to `memory` others."""
    d, kv, out = config.width, config.kv_heads * config.head_width, 2.0 * length * config.width**2
    scores = 4.0 * length * memory * d
    return MixerCost(2 * out + 4.0 * memory * d * kv, out, scores, scores)
