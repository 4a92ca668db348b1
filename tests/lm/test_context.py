"""Sequences that devices share out (`mesh.context`): the same losses, gradients and steps as on one device, or a refusal."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from tiers import tiered

from lm import task as family
from lm.decoder import Decoder
from lm.encoder import Encoder
from lm.loss import cross_entropy, divergence
from training import config as configs, data, loop, mesh as meshes, schedule, step as steps, step_spec
from training.errors import BadInput
from training.nets.block_config import clone, compose

KEY = jax.random.key(0)
DECODER = compose(
    Decoder, vocab_size=40, depth=1, width=32, heads=4, kv_heads=2, mlp_width=48, activation="swiglu", qk_norm=True
)
VARIANTS = {
    "documents": {},
    "scanned": {"depth": 2, "scan": True, "remat": "full", "kv_heads": 1},
    "windows": {"depth": 2, "pattern": ("local_attention", "attention"), "window": 5},
    "latents": {"pattern": ("latent_attention",), "qk_norm": False},
    "layer norms": {"norm": "layer", "bias": True, "activation": "gelu", "tied": False, "parallel_block": True},
    "experts": {"experts": 4, "experts_per_token": 2, "shared_experts": 1},
    "capacity": {"experts": 4, "experts_per_token": 2, "capacity_factor": 0.75},
}
MESHES = [{"data": 1, "context": 8}, {"data": 2, "context": 4}, {"data": 1, "fsdp": 2, "context": 2, "tensor": 2}]
TOKENS = np.random.default_rng(0).integers(0, 40, (4, 33)).astype(np.int32)
SEGMENTS = np.cumsum(np.random.default_rng(1).random((4, 32)) < 0.1, axis=1).astype(np.int32)

# These programs run once: what the compiler saves on optimising them is most of the time.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def boxed(model):
    return jax.eval_shape(functools.partial(model.init, method="parameters"), KEY)["params"]


def drawn(model):
    return jit(lambda: nn.meta.unbox(model.init(KEY, 1.5, method="parameters"))["params"])()


def total(model, params, tokens, segments):
    states, head, _ = model.routed(params, tokens[:, :-1], segments)
    nats, normaliser = cross_entropy(states, head, tokens[:, 1:])
    taught = divergence(states, head, jnp.sin(states), head, 2.0)
    return jnp.mean(nats) + 1e-2 * jnp.mean(normaliser**2) + jnp.mean(taught)


def encoded(model, params, tokens, segments):
    """The loss of every fifth token, whose number the axis does not divide."""
    places = jnp.tile(jnp.arange(0, 32, 5), (4, 1))
    states, head, bias = model.masked(params, tokens[:, :-1], places, segments)
    nats, _ = cross_entropy(states, head, jnp.take_along_axis(tokens, places, axis=1), bias=bias)
    return jnp.mean(nats)


def assert_close(found, expected):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), found, expected)


def on_mesh(loss, model, params, sizes):
    grid = meshes.build(sizes)
    placed = jax.device_put(params, meshes.shardings(boxed(model), grid))
    with jax.set_mesh(grid):
        return jax.device_get(jit(jax.value_and_grad(functools.partial(loss, model)))(placed, TOKENS, SEGMENTS))


SPLIT = [(name, MESHES[2]) for name in VARIANTS] + [("documents", sizes) for sizes in MESHES[:2]]


@pytest.mark.parametrize("variant, sizes", tiered(SPLIT, [(name, MESHES[2]) for name in ("documents", "capacity")]))
def test_a_split_sequence_changes_no_value(variant, sizes):
    model = clone(DECODER, **VARIANTS[variant])
    params = drawn(model)
    expected = jax.device_get(jit(jax.value_and_grad(functools.partial(total, model)))(params, TOKENS, SEGMENTS))
    assert all(np.abs(leaf).max() > 1e-4 for leaf in jax.tree.leaves(expected))
    assert_close(on_mesh(total, model, params, sizes), expected)


@pytest.mark.parametrize("sizes", tiered(MESHES, MESHES[1:2]))
def test_an_encoder_sees_both_ways_over_devices(sizes):
    model = compose(
        Encoder, vocab_size=40, depth=1, width=32, heads=4, mlp_width=48, norm="layer", bias=True, max_length=32
    )
    params = drawn(model)
    expected = jax.device_get(jit(jax.value_and_grad(functools.partial(encoded, model)))(params, TOKENS, SEGMENTS))
    assert_close(on_mesh(encoded, model, params, sizes), expected)


def test_each_device_has_its_part_of_the_activations():
    """Of the residual stream [4, 32, 32] a device has an eighth, and keys and values alone are gathered."""
    grid = meshes.build({"data": 2, "context": 4})
    model = DECODER
    placed = jax.device_put(drawn(model), meshes.shardings(boxed(model), grid))
    with jax.set_mesh(grid):
        text = jit(lambda p: total(model, p, TOKENS, SEGMENTS)).lower(placed).compile().as_text()
    assert "f32[2,8,32]" in text and "f32[2,32,32]" not in text and "f32[2,32,48]" not in text
    assert "f32[2,32,2,8]" in text


def config(**changes):
    partial = {
        "task": "lm",
        "batch_size": 4,
        "duration": {"steps": 3},
        "mesh": {"data": 1},
        "model": {"name": "decoder", "width": 32, "depth": 1, "heads": 4, "kv_heads": 2, "mlp_width": 48},
        "optimizer": {"learning_rate": 0.01},
        "evaluation": {"tokens": 256, "batch_size": 4},
        "data": {"corpus": "markov", "seq_len": 32, "vocab_size": 40, "document_masking": True},
    }
    full = configs.complete(ConfigDict(partial))
    full.update_from_flattened_dict(changes)
    return full


def trained(config):
    """Losses of some steps, and the parameters after them."""
    config = configs.resolve(config)
    task, mesh = family.build(config), meshes.build(config.mesh)
    data.check_divisible(config, mesh)
    hyper, shapes = step_spec.hyper(config, task), data.shapes(task, config.batch_size)
    programs = steps.programs(step_spec.of(task.model, config), mesh, 1, shapes, tuple(hyper))
    seed, lr = np.int32(config.seed), 0.01 * schedule.values(config.schedule, 3, 0)
    state, losses = programs.init(seed, hyper), []
    for k in range(3):
        batch = data.batches(task, shapes, mesh, k, 1)
        state, metrics = programs.train(state, batch, lr[k : k + 1], seed, hyper)
        losses.append([float(metrics[name][0]) for name in ("loss", "grad_norm")])
    return losses, jax.device_get(state.params)


STEPPED = [(name, sizes) for name in ("decoder", "encoder") for sizes in MESHES[1:]]


@pytest.mark.parametrize("name, sizes", tiered(STEPPED, STEPPED[1:2]))
def test_steps_are_those_of_one_device(name, sizes):
    model = {} if name == "decoder" else {"model.name": name, "model.kv_heads": None}
    base = {"optimizer.name": "sgd", **model}
    expected = trained(config(**base))
    found = trained(config(**base, **{f"mesh.{axis}": size for axis, size in sizes.items()}))
    assert_close(found, expected)


def test_the_run_is_the_same_and_says_how_it_attends(tmp_path):
    split = config(**{"mesh.data": 2, "mesh.context": 4, "gradient_accumulation_steps": 2})
    alone = config(**{"gradient_accumulation_steps": 2})
    assert configs.resolve(split).derived.run_id == configs.resolve(alone).derived.run_id
    results = [loop.run(one, tmp_path / name) for name, one in (("split", split), ("alone", alone))]
    assert results[0]["loss"] == pytest.approx(results[1]["loss"], abs=1e-5)
    assert [result["attention"] for result in results] == [
        "xla (auto on cpu: no blocked, mesh.context splits sequences)",
        "blocked (auto on cpu)",
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.pattern": ("mamba2", "attention")}, "mesh.context: mamba2 reads a sequence token after token"),
        ({"model.pattern": ("gated_delta",)}, "mesh.context: gated_delta reads"),
        ({"model.name": "gated_linear"}, "mesh.context: gated_linear reads"),
        ({"model.name": "lstm"}, "mesh.context: lstm needs whole sequences; mesh.context=1"),
        (
            {"model.name": "encoder_decoder", "data.document_masking": None},
            "mesh.context: encoder_decoder needs whole sequences",
        ),
    ],
)
def test_models_that_need_whole_sequences_are_refused(changes, message):
    open_shape = (
        {} if "model.pattern" in changes else {"model.heads": None, "model.kv_heads": None, "model.mlp_width": None}
    )
    with pytest.raises(BadInput, match=message):
        configs.resolve(config(**open_shape, **changes, **{"mesh.context": 2}))


def test_a_length_that_devices_cannot_share_is_refused():
    with pytest.raises(BadInput, match="mesh.context: 4 does not divide the 30 tokens of a sequence"):
        trained(config(**{"mesh.context": 4, "data.seq_len": 30}))


def test_images_are_not_split():
    images = configs.complete(ConfigDict({"task": "vision", "batch_size": 8, "duration": {"steps": 1}}))
    images.update_from_flattened_dict({"data.dataset": "procedural", "mesh.context": 2})
    with pytest.raises(BadInput, match=r"mesh.context: splits sequences of text"):
        configs.resolve(images)
