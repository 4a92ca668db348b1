"""What a decoder costs: parameters by component of its tree, and products by component, per example of `seq_len` tokens."""

from lm import decoder
from lm.decoder import Decoder
from training.cost import Cost
from training.nets import costs
from training.nets.initial import count

EMBEDDING = ("embedding", "position")
ROUTING = ("dispatch", "combine")  # products that move tokens to experts and back


def cost(model: Decoder, seq_len: int) -> Cost:
    """The cost of a decoder over examples of `seq_len` tokens."""
    params, products = parameters(model), costs.forward(model.blocks, seq_len)
    head = {"head": float(seq_len) * 2 * model.width * model.vocab_size}
    mixture = model.blocks.moe is not None
    causal = costs.forward(model.blocks, seq_len, causal=True)
    return Cost(
        params=params,
        embedding=EMBEDDING,
        forward=_of_model(products) | head,
        forward_causal=_of_model(causal) | head,
        tokens_per_example=seq_len,
        recompute=costs.recompute(model.blocks, seq_len),
        params_active=sum(params.values()) - costs.idle(model.blocks) if mixture else None,
        routing={name: products.get(name, 0.0) for name in ROUTING},
    )


def _of_model(products: dict[str, float]) -> dict[str, float]:
    return {name: flops for name, flops in products.items() if name not in ROUTING}


def parameters(model: Decoder) -> dict[str, int]:
    """Parameters by component."""
    top, blocks = decoder.top(model), costs.parameters(model.blocks)
    return {
        "embedding": count(top["embed"]),
        "position": count(top.get("position", {})),
        **blocks,
        "norm": blocks["norm"] + count(top["final_norm"]),
        "head": count(top.get("head", {})),
    }
