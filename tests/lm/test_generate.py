"""Generation against the uncached forward pass, and what each setting may draw."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiers import tiered

from lm.decoder import Decoder
from lm.generate import generate, pick
from lm.recurrent import Recurrent
from training.errors import BadInput
from training.nets.block_config import compose

KEY = jax.random.key(0)
SHAPE = {"vocab_size": 17, "depth": 2, "width": 16, "heads": 4, "mlp_width": 24}
MODELS = {
    "rotary, grouped": compose(Decoder, **SHAPE, kv_heads=2),
    "learned, biased": compose(
        Decoder, **SHAPE, kv_heads=4, positions="learned", max_length=20, norm="layer", bias=True
    ),
    "parallel, gated": compose(
        Decoder, **SHAPE, kv_heads=1, parallel_block=True, activation="swiglu", qk_norm=True, tied=False
    ),
    "gated linear": compose(Decoder, **SHAPE | {"heads": 1}, kv_heads=1, positions="none", pattern=("gated_linear",)),
    "experts": compose(
        Decoder, **SHAPE, kv_heads=2, experts=4, experts_per_token=2, capacity_factor=0.5, shared_experts=1
    ),
    "lstm": Recurrent(17, "lstm", depth=2, width=16),
    "gru": Recurrent(17, "gru", depth=2, width=16, tied=False),
}


# These programs run a few times: what the compiler saves on optimising them is most of the time.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@functools.lru_cache
def params_of(model):
    # Twice the usual scale: peaked logits, so that a wrong cache changes what is likeliest.
    init = jit(functools.partial(model.init, method="parameters"))
    return nn.meta.unbox(init(jax.random.key(1), 2.0))["params"]


@pytest.mark.parametrize("name", tiered(MODELS, ["learned, biased", "parallel, gated", "experts", "gru"]))
def test_cached_logits_equal_the_uncached_forward_pass(name):
    model = MODELS[name]
    params = params_of(model)
    tokens = jax.random.randint(KEY, (3, 12), 0, model.vocab_size)
    whole = jit(model)(params, tokens)
    extend = jit(model.extend)
    cache, parts = model.empty_cache(3, 12), []
    for start in (0, 4, 8):
        logits, cache = extend(params, tokens[:, start : start + 4], cache)
        parts.append(logits)
    np.testing.assert_allclose(jnp.concatenate(parts, axis=1), whole, atol=2e-5)
    assert int(cache.get("length", 12)) == 12


GREEDY = ("rotary, grouped", "learned, biased", "gated linear", "experts", "lstm")


@pytest.mark.parametrize("name", tiered(GREEDY, ["rotary, grouped", "gated linear", "lstm"]))
def test_greedy_generation_is_the_argmax_of_the_uncached_pass(name):
    model = MODELS[name]
    params = params_of(model)
    prompts = [[3, 1, 4], [1, 5, 9, 2, 6, 5], [7]]
    rows = generate(model, params, prompts, 10, key=KEY, temperature=0.0)
    likeliest = jit(lambda tokens: model(params, tokens)[0].argmax(-1))
    for prompt, row in zip(prompts, rows, strict=True):
        expected = np.zeros(16, np.int32)
        expected[: len(prompt)] = prompt
        for position in range(len(prompt), len(prompt) + 10):
            expected[position] = likeliest(expected[None])[position - 1]  # what follows does not reach back
        assert row.tolist() == expected[: len(prompt) + 10].tolist()


def test_a_row_does_not_depend_on_its_company():
    model = MODELS["rotary, grouped"]
    params = params_of(model)
    alone = generate(model, params, [[1, 2, 3]], 12, key=KEY)
    beside = generate(model, params, [[1, 2, 3], [4], [5, 6, 7, 8, 9]], 12, key=KEY)
    assert alone[0].tolist() == beside[0].tolist()
    other = generate(model, params, [[1, 2, 3]], 12, key=jax.random.key(7))
    assert alone[0].tolist() != other[0].tolist()


def test_a_row_stops_after_the_end_symbol():
    model = MODELS["rotary, grouped"]
    params = params_of(model)
    free = generate(model, params, [[1, 2], [3]], 15, key=KEY)
    end = int(free[0][6])
    rows = generate(model, params, [[1, 2], [3]], 15, key=KEY, end=end)
    first = free[0].tolist().index(end, 2)
    assert rows[0].tolist() == free[0][: first + 1].tolist()


def test_a_window_forgets_what_lies_before_it():
    model = compose(Decoder, **SHAPE | {"depth": 1}, kv_heads=4)
    params = params_of(model)
    first = generate(model, params, [[1, 2, 3, 4]], 8, key=KEY, temperature=0.0, window=2)
    other = generate(model, params, [[9, 8, 3, 4]], 8, key=KEY, temperature=0.0, window=2)
    assert first[0][4:].tolist() == other[0][4:].tolist()
    whole = jit(model)(params, jnp.array([[3, 4]]))
    assert int(whole[0, -1].argmax()) == first[0][4]


LOGITS = jnp.log(jnp.array([[0.1, 0.4, 0.2, 0.3]]))


@pytest.mark.parametrize(
    ("settings", "possible"),
    [
        ({"temperature": 0.0, "top_k": 0, "top_p": 1.0}, {1: 1.0}),
        ({"temperature": 1.0, "top_k": 1, "top_p": 1.0}, {1: 1.0}),
        ({"temperature": 1.0, "top_k": 2, "top_p": 1.0}, {1: 4 / 7, 3: 3 / 7}),
        ({"temperature": 1.0, "top_k": 0, "top_p": 0.3}, {1: 1.0}),
        ({"temperature": 1.0, "top_k": 0, "top_p": 0.75}, {1: 4 / 9, 3: 3 / 9, 2: 2 / 9}),
        ({"temperature": 1.0, "top_k": 2, "top_p": 0.57}, {1: 1.0}),
        ({"temperature": 0.5, "top_k": 0, "top_p": 1.0}, {0: 1 / 30, 1: 16 / 30, 2: 4 / 30, 3: 9 / 30}),
        ({"temperature": 1.0, "top_k": 0, "top_p": 1.0}, {0: 0.1, 1: 0.4, 2: 0.2, 3: 0.3}),
    ],
)
def test_draws_follow_the_settings(settings, possible):
    draws = 8000
    keys = jax.random.split(KEY, draws)
    tokens = np.asarray(jax.jit(pick)(jnp.tile(LOGITS, (draws, 1)), keys, **settings))
    share = np.bincount(tokens, minlength=4) / draws
    expected = np.array([possible.get(token, 0.0) for token in range(4)])
    assert (share[expected == 0] == 0).all()
    np.testing.assert_allclose(share, expected, atol=4 * 0.5 / draws**0.5)


@pytest.mark.parametrize(
    ("prompts", "settings", "message"),
    [
        ([[]], {}, "at least one token"),
        ([[17]], {}, "outside the vocabulary"),
        ([[1]], {"new": 0}, "positive"),
        ([[1]], {"top_p": 0.0}, "top_p"),
        ([[1]], {"temperature": -1.0}, "temperature"),
        ([[1]], {"new": 20}, "learned positions"),
    ],
)
def test_bad_settings_are_refused(prompts, settings, message):
    model = MODELS["learned, biased"]
    with pytest.raises(BadInput, match=message):
        generate(model, {}, prompts, key=KEY, **{"new": 4} | settings)
