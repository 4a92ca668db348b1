"""What transformer blocks cost, from their shape alone: parameters and products by component."""

from training.nets.blocks import Blocks
from training.nets.layers import ACTIVATIONS


def parameters(model: Blocks, cross: bool = False) -> dict[str, int]:
    """Parameters of all blocks by component, with one norm more: the final one, or after norms that of the embedding.

    `cross`: of blocks that also attend to a memory."""
    d, mlp, depth = model.width, model.mlp_width, model.depth
    head_width = d // model.heads
    kv = model.kv_heads * head_width
    bias = int(model.bias)
    matrices = 3 if gated(model) else 2
    norm = d * (1 + (bias if model.norm == "layer" else 0))
    norms = (1 if model.parallel else 2) * norm + (2 * head_width if model.qk_norm else 0)
    attention = 2 * d * d + 2 * d * kv + bias * (2 * d + 2 * kv)
    if cross:
        norms += norm + (2 * head_width if model.qk_norm else 0)
    return {
        "attention": (2 if cross else 1) * depth * attention,
        "mlp": depth * (matrices * d * mlp + bias * ((matrices - 1) * mlp + d)),
        "norm": depth * norms + norm,
    }


def forward(model: Blocks, length: int, memory: int = 0) -> dict[str, float]:
    """FLOPs of the forward products over `length` tokens by component; `scores` are those of full attention maps.

    `memory`: tokens that the blocks also attend to."""
    d, tokens = model.width, float(length)
    kv = model.kv_heads * (d // model.heads)
    crossing = 2 * d * d * tokens + 2 * d * kv * memory if memory else 0.0
    return {
        "attention": model.depth * 2 * (tokens * (2 * d * d + 2 * d * kv) + crossing),
        "scores": model.depth * tokens * 2 * 2 * (length + memory) * d,
        "mlp": model.depth * tokens * 2 * (3 if gated(model) else 2) * d * model.mlp_width,
    }


def recompute(model: Blocks, products: dict[str, float]) -> float:
    """FLOPs of the forward products that the backward pass repeats.

    "dots" keeps the projections and repeats the products of attention; "full" repeats every product but those whose
    result only enters a sum: before norms, the MLP's last and, in parallel blocks, attention's.
    """
    if model.remat == "none":
        return 0.0
    if model.remat == "dots":
        return products["scores"]
    last = products["mlp"] / (3 if gated(model) else 2) if model.placement == "pre" else 0.0
    if model.parallel:
        d, kv = model.width, model.kv_heads * (model.width // model.heads)
        last += products["attention"] * d / (2 * d + 2 * kv)
    return products["attention"] + products["scores"] + products["mlp"] - last


def gated(model: Blocks) -> bool:
    """Whether a second projection gates the MLP."""
    return ACTIVATIONS[model.activation][1]
