"""What transformer blocks cost, from their shape alone: parameters and products by component."""

from training.nets import experts
from training.nets.blocks import Blocks
from training.nets.experts import Mixture
from training.nets.layers import ACTIVATIONS


def parameters(model: Blocks, cross: bool = False) -> dict[str, int]:
    """Parameters of all blocks by component, with one norm more: the final one, or after norms that of the embedding.

    `cross`: of blocks that also attend to a memory."""
    d, depth = model.width, model.depth
    head_width = d // model.heads
    kv = model.kv_heads * head_width
    bias = int(model.bias)
    norm = d * (1 + (bias if model.norm == "layer" else 0))
    norms = (1 if model.parallel else 2) * norm + (2 * head_width if model.qk_norm else 0)
    attention = 2 * d * d + 2 * d * kv + bias * (2 * d + 2 * kv)
    if cross:
        norms += norm + (2 * head_width if model.qk_norm else 0)
    return {
        "attention": (2 if cross else 1) * depth * attention,
        "mlp": depth * _mlp(model, model.mlp_width),
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
        "mlp": model.depth * tokens * 2 * _matrices(model) * d * model.mlp_width,
    }


def recompute(model: Blocks, products: dict[str, float]) -> float:
    """FLOPs of the forward products that the backward pass repeats.

    "dots" keeps the projections and repeats the products of attention; "full" repeats every product but those whose
    result only enters a sum: before norms, the MLP's last (that of experts is weighed by their gates, whose gradient needs
    it) and, in parallel blocks, attention's.
    """
    if model.remat == "none":
        return 0.0
    if model.remat == "dots":
        return products["scores"]
    routed = {name: products.get(name, 0.0) for name in ("router", "dispatch", "shared")}
    last = products["shared" if "router" in products else "mlp"] / _matrices(model) if model.placement == "pre" else 0.0
    if model.parallel:
        d, kv = model.width, model.kv_heads * (model.width // model.heads)
        last += products["attention"] * d / (2 * d + 2 * kv)
    return products["attention"] + products["scores"] + products["mlp"] + sum(routed.values()) - last


def mixture_parameters(model: Mixture) -> dict[str, int]:
    """Parameters of all blocks' experts by component, of which "mlp" are the routed ones."""
    return {
        "mlp": model.depth * model.experts * _mlp(model, model.mlp_width),
        "router": model.depth * model.width * model.experts,
        "shared": model.depth * _mlp(model, model.shared_experts * model.mlp_width) if model.shared_experts else 0,
    }


def idle(model: Mixture) -> int:
    """Parameters of the experts that a token does not go through."""
    return model.depth * (model.experts - model.experts_per_token) * _mlp(model, model.mlp_width)


def mixture_forward(model: Mixture, length: int) -> dict[str, float]:
    """FLOPs of the forward products of the experts, in training on an example of `length` tokens, by component.

    With a capacity all slots count, filled or not, and so do the products that send tokens to them ("dispatch", whose one
    factor is made of whole numbers) and bring them back ("combine")."""
    d, every = model.width, model.depth * float(length)
    each = 2 * _matrices(model) * d * model.mlp_width
    found = {"router": every * 2 * d * model.experts, "shared": every * model.shared_experts * each}
    if not model.capacity:
        return found | {"mlp": every * model.experts_per_token * each, "dispatch": 0.0, "combine": 0.0}
    places = float(model.experts * experts.slots(model, length))
    moved = every * 2 * places * d
    return found | {"mlp": model.depth * places * each, "dispatch": moved, "combine": moved}


def _mlp(model: Blocks, width: int) -> int:
    """Parameters of an MLP of so many hidden features."""
    matrices = _matrices(model)
    return matrices * model.width * width + int(model.bias) * ((matrices - 1) * width + model.width)


def _matrices(model: Blocks) -> int:
    """Kernels of an MLP: a second projection gates it, or does not."""
    return 3 if ACTIVATIONS[model.activation][1] else 2
