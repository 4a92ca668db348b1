"""The decoder against transformers: with the same weights, GPT-2, Llama and Mixtral give the same logits."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm.decoder import Decoder

REASON = "needs the extra `parity` (torch and transformers)"
torch = pytest.importorskip("torch", reason=REASON)
transformers = pytest.importorskip("transformers", reason=REASON)

TOKENS = np.random.default_rng(0).integers(0, 101, (3, 23)).astype(np.int32)


def weights_of(reference):
    """A random model's weights by name, spread more than its own initial values: what is not used would show."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in reference.named_parameters():
            offset = 1.0 if weight.ndim == 1 and name.endswith("weight") else 0.0
            weight.copy_(offset + 0.15 * torch.randn(weight.shape, generator=generator))
    return {name: jnp.asarray(weight.detach().numpy()) for name, weight in reference.named_parameters()}


def logits_of(reference):
    with torch.no_grad():
        return reference(torch.as_tensor(TOKENS, dtype=torch.long)).logits.numpy()


def stacked(weights, pattern, depth, transform=lambda w: w):
    return jnp.stack([transform(weights[pattern.format(layer)]) for layer in range(depth)])


def same_tree(model, params):
    expected = jax.eval_shape(functools.partial(model.init, method="parameters"), jax.random.key(0))["params"]
    return jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, nn.meta.unbox(expected))


def test_gpt2():
    reference = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=101,
            n_positions=32,
            n_embd=48,
            n_layer=3,
            n_head=4,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
        )
    ).eval()
    weights = weights_of(reference)
    layer = functools.partial(stacked, weights, depth=3)

    def linear(name, part=slice(None)):
        kernel, bias = f"transformer.h.{{}}.{name}.weight", f"transformer.h.{{}}.{name}.bias"
        return {
            "kernel": layer(kernel, transform=lambda w: w[:, part]),
            "bias": layer(bias, transform=lambda w: w[part]),
        }

    def norm(name):
        return {"scale": layer(f"transformer.h.{{}}.{name}.weight"), "bias": layer(f"transformer.h.{{}}.{name}.bias")}

    thirds = {"query": slice(0, 48), "key": slice(48, 96), "value": slice(96, 144)}
    params = {
        "embed": {"embedding": weights["transformer.wte.weight"]},
        "position": {"embedding": weights["transformer.wpe.weight"]},
        "blocks": {
            "attention_norm": norm("ln_1"),
            "attention": {name: linear("attn.c_attn", part) for name, part in thirds.items()}
            | {"out": linear("attn.c_proj")},
            "mlp_norm": norm("ln_2"),
            "mlp": {"up": linear("mlp.c_fc"), "down": linear("mlp.c_proj")},
        },
        "final_norm": {"scale": weights["transformer.ln_f.weight"], "bias": weights["transformer.ln_f.bias"]},
    }
    model = Decoder(
        vocab_size=101, depth=3, width=48, heads=4, kv_heads=4, mlp_width=192, max_length=32,
        norm="layer", positions="learned", activation="gelu", tied=True, bias=True,
    )  # fmt: skip
    assert same_tree(model, params)
    np.testing.assert_allclose(jax.jit(model.apply)({"params": params}, TOKENS), logits_of(reference), atol=1e-4)


def test_llama_with_grouped_queries():
    reference = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=101, hidden_size=48, intermediate_size=80, num_hidden_layers=3, num_attention_heads=6,
            num_key_value_heads=2, max_position_embeddings=32, rms_norm_eps=1e-6, tie_word_embeddings=False,
            attention_bias=False, mlp_bias=False,
        )
    ).eval()  # fmt: skip
    weights = weights_of(reference)
    theta = getattr(reference.config, "rope_theta", None) or reference.config.rope_parameters["rope_theta"]

    def linear(name):
        return {"kernel": stacked(weights, f"model.layers.{{}}.{name}.weight", 3, lambda w: w.T)}

    def norm(name):
        return {"scale": stacked(weights, f"model.layers.{{}}.{name}.weight", 3)}

    projections = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "out": "o_proj"}
    params = {
        "embed": {"embedding": weights["model.embed_tokens.weight"]},
        "blocks": {
            "attention_norm": norm("input_layernorm"),
            "attention": {ours: linear(f"self_attn.{theirs}") for ours, theirs in projections.items()},
            "mlp_norm": norm("post_attention_layernorm"),
            "mlp": {name: linear(f"mlp.{name}_proj") for name in ("up", "gate", "down")},
        },
        "final_norm": {"scale": weights["model.norm.weight"]},
        "head": {"embedding": weights["lm_head.weight"]},
    }
    model = Decoder(
        vocab_size=101, depth=3, width=48, heads=6, kv_heads=2, mlp_width=80, norm="rms", norm_eps=1e-6,
        positions="rotary", rope_theta=theta, activation="swiglu", tied=False,
    )  # fmt: skip
    assert same_tree(model, params)
    np.testing.assert_allclose(jax.jit(model.apply)({"params": params}, TOKENS), logits_of(reference), atol=1e-4)


@pytest.mark.parametrize("dispatch", ["blocked", "ragged"])
def test_mixtral(dispatch):
    reference = transformers.MixtralForCausalLM(
        transformers.MixtralConfig(
            vocab_size=101, hidden_size=48, intermediate_size=40, num_hidden_layers=2, num_attention_heads=6,
            num_key_value_heads=2, max_position_embeddings=32, rms_norm_eps=1e-6, tie_word_embeddings=False,
            num_local_experts=5, num_experts_per_tok=2, sliding_window=None,
        )
    ).eval()  # fmt: skip
    weights = weights_of(reference)
    theta = getattr(reference.config, "rope_theta", None) or reference.config.rope_parameters["rope_theta"]
    layer = functools.partial(stacked, weights, depth=2)

    def linear(name, transform=lambda w: jnp.swapaxes(w, -1, -2)):
        return {"kernel": layer(f"model.layers.{{}}.{name}", transform=transform)}

    def half(part):
        return lambda w: jnp.swapaxes(jnp.split(w, 2, axis=1)[part], -1, -2)

    def norm(name):
        return {"scale": layer(f"model.layers.{{}}.{name}.weight")}

    projections = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "out": "o_proj"}
    params = {
        "embed": {"embedding": weights["model.embed_tokens.weight"]},
        "blocks": {
            "attention_norm": norm("input_layernorm"),
            "attention": {ours: linear(f"self_attn.{theirs}.weight") for ours, theirs in projections.items()},
            "mlp_norm": norm("post_attention_layernorm"),
            "mlp": {
                "router": linear("mlp.gate.weight"),
                "gate": linear("mlp.experts.gate_up_proj", half(0)),
                "up": linear("mlp.experts.gate_up_proj", half(1)),
                "down": linear("mlp.experts.down_proj"),
            },
        },
        "final_norm": {"scale": weights["model.norm.weight"]},
        "head": {"embedding": weights["lm_head.weight"]},
    }
    model = Decoder(
        vocab_size=101, depth=2, width=48, heads=6, kv_heads=2, mlp_width=40, norm="rms", norm_eps=1e-6,
        positions="rotary", rope_theta=theta, activation="swiglu", tied=False, experts=5, experts_per_token=2,
        dispatch=dispatch,
    )  # fmt: skip
    assert same_tree(model, params)
    np.testing.assert_allclose(jax.jit(model.apply)({"params": params}, TOKENS), logits_of(reference), atol=1e-4)
    # Over one example our balance is theirs, but for their counting every one of a token's choices as a whole one.
    with torch.no_grad():
        routers = reference(torch.as_tensor(TOKENS[:1], dtype=torch.long), output_router_logits=True).router_logits
    loss = transformers.models.mixtral.modeling_mixtral.load_balancing_loss_func
    told = jax.jit(functools.partial(model.apply, method="routed"))({"params": params}, TOKENS[:1])[2]
    theirs = [float(loss((router,), 5, 2)) / 2 for router in routers]
    np.testing.assert_allclose(told["balance"] / TOKENS.shape[1], theirs, rtol=1e-4)
    z = [float(torch.logsumexp(router, dim=-1).square().mean()) for router in routers]
    np.testing.assert_allclose(told["router_z"] / TOKENS.shape[1], z, rtol=1e-4)
