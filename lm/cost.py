"""What a decoder costs, from its shape alone: parameters and products by component, per example of `seq_len` tokens."""

from typing import Any

from training.cost import Cost
from training.nets import costs

EMBEDDING = ("embedding", "position")


def cost(model: Any, seq_len: int, vocab_size: int) -> Cost:
    """The cost of a decoder.

    Args:
      model: a `Decoder`, or whatever has its shape and options.
      seq_len: tokens of an example; also the rows of learned positions.
      vocab_size: symbols.
    """
    params, products = parameters(model, seq_len, vocab_size), forward(model, seq_len, vocab_size)
    # A token sees itself and what came before: of seq_len keys, (seq_len + 1) / 2 on average.
    causal = products | {"scores": products["scores"] * (seq_len + 1) / (2 * seq_len)}
    return Cost(
        params=params,
        embedding=EMBEDDING,
        forward=products,
        forward_causal=causal,
        tokens_per_example=seq_len,
        recompute=costs.recompute(model, products),
        params_active=sum(params.values()) - costs.idle(model) if mixture(model) else None,
        from_data=products.get("dispatch", 0.0),
    )


def mixture(model: Any) -> bool:
    """Whether the blocks have experts."""
    return bool(getattr(model, "experts", 0))


def parameters(model: Any, seq_len: int, vocab_size: int) -> dict[str, int]:
    """Parameters by component."""
    return {
        "embedding": vocab_size * model.width,
        "position": seq_len * model.width if model.positions == "learned" else 0,
        **costs.parameters(model),
        **(costs.mixture_parameters(model) if mixture(model) else {}),
        "head": 0 if model.tied else vocab_size * model.width,
    }


def forward(model: Any, seq_len: int, vocab_size: int) -> dict[str, float]:
    """FLOPs of the forward products of one example by component; `scores` are the products with full attention maps."""
    products = costs.forward(model, seq_len) | (costs.mixture_forward(model, seq_len) if mixture(model) else {})
    if model.mixer == "linear":  # a recurrence has no products of its own
        products["scores"] = 0.0
    return {**products, "head": float(seq_len) * 2 * model.width * vocab_size}
