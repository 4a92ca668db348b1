"""The decoder against transformers: with the same weights, GPT-2, Llama and Mixtral give the same logits."""

import jax
import numpy as np
import pytest

from lm import hf_import_export
from training.nets.block_config import clone

REASON = "needs the extra `parity` (torch and transformers)"
torch = pytest.importorskip("torch", reason=REASON)
transformers = pytest.importorskip("transformers", reason=REASON)

TOKENS = np.random.default_rng(0).integers(0, 101, (3, 23)).astype(np.int32)


def spread(reference):
    """Random weights, spread more than a model's own initial values: what is not used would show."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in reference.named_parameters():
            offset = 1.0 if weight.ndim == 1 and name.endswith("weight") else 0.0
            weight.copy_(offset + 0.15 * torch.randn(weight.shape, generator=generator))


def logits_of(reference):
    with torch.no_grad():
        return reference(torch.as_tensor(TOKENS, dtype=torch.long)).logits.numpy()


def imported(reference, folder):
    """What `lm.hf_import_export` reads of a model that transformers saved."""
    reference.save_pretrained(folder)
    return hf_import_export.read(folder)


def same_logits(found, reference):
    apply = jax.jit(found.model)
    np.testing.assert_allclose(apply(found.params, TOKENS), logits_of(reference), atol=1e-4)


GPT2 = {
    "n_positions": 32,
    "n_embd": 48,
    "n_layer": 3,
    "n_head": 4,
    "resid_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "attn_pdrop": 0.0,
}
LLAMA = {
    "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 2, "num_attention_heads": 6,
    "num_key_value_heads": 2, "max_position_embeddings": 32, "rms_norm_eps": 1e-6,
}  # fmt: skip


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"activation_function": "gelu", "n_inner": 72, "tie_word_embeddings": False, "layer_norm_epsilon": 1e-3},
        {"activation_function": "relu"},
    ],
    ids=["published", "changed", "relu"],
)
def test_gpt2(tmp_path, changed):
    reference = transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=101, **GPT2 | changed)).eval()
    spread(reference)
    same_logits(imported(reference, tmp_path), reference)


@pytest.mark.parametrize(
    "changed",
    [
        {"tie_word_embeddings": False},
        {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True, "hidden_act": "gelu_pytorch_tanh"},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}, "rms_norm_eps": 1e-3},
    ],
    ids=["grouped queries", "biases", "theta"],
)
def test_llama(tmp_path, changed):
    reference = transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=101, **LLAMA | changed)).eval()
    spread(reference)
    same_logits(imported(reference, tmp_path), reference)


@pytest.mark.parametrize("dispatch", ["blocked", "ragged"])
def test_mixtral(tmp_path, dispatch):
    experts = {"num_local_experts": 5, "num_experts_per_tok": 2, "sliding_window": None, "tie_word_embeddings": False}
    config = transformers.MixtralConfig(vocab_size=101, **LLAMA | experts)
    reference = transformers.MixtralForCausalLM(config).eval()
    spread(reference)
    found = imported(reference, tmp_path)
    model, params = clone(found.model, dispatch=dispatch), found.params
    same_logits(found._replace(model=model), reference)
    # Over one example our balance is theirs, but for their counting every one of a token's choices as a whole one.
    with torch.no_grad():
        routers = reference(torch.as_tensor(TOKENS[:1], dtype=torch.long), output_router_logits=True).router_logits
    loss = transformers.models.mixtral.modeling_mixtral.load_balancing_loss_func
    told = jax.jit(model.routed)(params, TOKENS[:1])[2]
    theirs = [float(loss((router,), 5, 2)) / 2 for router in routers]
    np.testing.assert_allclose(told["load_balancing_loss"] / TOKENS.shape[1], theirs, rtol=1e-4)
    z = [float(torch.logsumexp(router, dim=-1).square().mean()) for router in routers]
    np.testing.assert_allclose(told["router_z_loss"] / TOKENS.shape[1], z, rtol=1e-4)
