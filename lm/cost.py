"""What a decoder costs, from its shape alone: parameters and products by component, per example of `seq_len` tokens."""

from typing import Any

from lm.layers import ACTIVATIONS
from training.cost import Cost

EMBEDDING = ("embedding", "position")


def cost(model: Any, seq_len: int, vocab_size: int) -> Cost:
    """The cost of a decoder.

    Args:
      model: a resolved `config.model` or a `Decoder`: its shape and options.
      seq_len: tokens of an example; also the rows of learned positions.
      vocab_size: symbols.
    """
    products = forward(model, seq_len, vocab_size)
    # A token sees itself and what came before: of seq_len keys, (seq_len + 1) / 2 on average.
    causal = products | {"scores": products["scores"] * (seq_len + 1) / (2 * seq_len)}
    return Cost(
        params=parameters(model, seq_len, vocab_size),
        embedding=EMBEDDING,
        forward=products,
        forward_causal=causal,
        tokens_per_example=seq_len,
        recompute=recompute(model, products),
    )


def parameters(model: Any, seq_len: int, vocab_size: int) -> dict[str, int]:
    """Parameters by component."""
    d, mlp, depth = model.width, model.mlp_width, model.depth
    head_width = d // model.heads
    kv = model.kv_heads * head_width
    bias = int(model.bias)
    matrices = 3 if _gated(model) else 2
    norm = d * (1 + (bias if model.norm == "layer" else 0))
    norms = (1 if model.parallel else 2) * norm + (2 * head_width if model.qk_norm else 0)
    return {
        "embedding": vocab_size * d,
        "position": seq_len * d if model.positions == "learned" else 0,
        "attention": depth * (2 * d * d + 2 * d * kv + bias * (2 * d + 2 * kv)),
        "mlp": depth * (matrices * d * mlp + bias * ((matrices - 1) * mlp + d)),
        "norm": depth * norms + norm,
        "head": 0 if model.tied else vocab_size * d,
    }


def forward(model: Any, seq_len: int, vocab_size: int) -> dict[str, float]:
    """FLOPs of the forward products of one example by component; `scores` are the products with full attention maps."""
    d, tokens = model.width, float(seq_len)
    kv = model.kv_heads * (d // model.heads)
    return {
        "attention": model.depth * tokens * 2 * (2 * d * d + 2 * d * kv),
        "scores": model.depth * tokens * 2 * 2 * seq_len * d,
        "mlp": model.depth * tokens * 2 * (3 if _gated(model) else 2) * d * model.mlp_width,
        "head": tokens * 2 * d * vocab_size,
    }


def recompute(model: Any, products: dict[str, float]) -> float:
    """FLOPs of the forward products that the backward pass repeats.

    "dots" keeps the projections and repeats the products of attention; "full" repeats every product but those whose
    result only enters a sum: the MLP's last and, in parallel blocks, attention's.
    """
    if model.remat == "none":
        return 0.0
    if model.remat == "dots":
        return products["scores"]
    last = products["mlp"] / (3 if _gated(model) else 2)
    if model.parallel:
        d, kv = model.width, model.kv_heads * (model.width // model.heads)
        last += products["attention"] * d / (2 * d + 2 * kv)
    return products["attention"] + products["scores"] + products["mlp"] - last


def _gated(model: Any) -> bool:
    return ACTIVATIONS[model.activation][1]
