"""Statistics of a step by layer and QK-clip: each against numpy, and in runs over micro-batches and devices."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from lm.decoder import Decoder
from training import checkpoint, loop, statistics
from training.config import complete, resolve
from training.errors import BadInput
from training.lines import read_metrics
from training.nets import probes, qk_clip
from training.nets.block_config import clone, compose
from training.optimizer import Axes

MULTI = compose(
    Decoder, vocab_size=19, depth=1, width=16, heads=4, kv_heads=4, mlp_width=8, positions="none", bias=True
)
TOKENS = np.random.default_rng(0).integers(0, 19, (3, 10)).astype(np.int32)


def reported(model, params):
    flags = {probes.MAX_LOGIT: None, probes.SQUARE: None}
    return jax.jit(lambda params: model.routed(params, TOKENS, probes=flags)[2])(params)


@functools.lru_cache
def initial(model):
    return nn.meta.unbox(model.init(jax.random.key(0), 2.0, method="parameters"))["params"]


@pytest.mark.parametrize("window", [0, 50])
def test_the_largest_logit_is_that_of_pairs_that_see_each_other(window):
    rng = np.random.default_rng(1)
    q, k = rng.normal(size=(2, 300, 4, 8)), rng.normal(size=(2, 300, 2, 8))
    segments = np.cumsum(rng.random((2, 300)) < 0.02, axis=1).astype(np.int32)
    found = probes.max_logits(jnp.float32(q), jnp.float32(k), jnp.asarray(segments), causal=True, window=window)
    scores = np.einsum("bqhd,bkhd->bhqk", q, np.repeat(k, 2, axis=2)) / np.sqrt(8)
    i = np.arange(300)
    seen = (i[None, :] <= i[:, None]) & (i[:, None] - i[None, :] < (window or 300))
    seen = (seen & (segments[:, :, None] == segments[:, None, :]))[:, None]
    np.testing.assert_allclose(found, np.where(seen, scores, -np.inf).max((0, 2, 3)), rtol=1e-5)


def test_a_block_reports_its_logits_and_the_stream_behind_it():
    params = jax.tree.map(np.float64, initial(MULTI))
    told = reported(MULTI, initial(MULTI))
    x, block = params["embed"]["embedding"][TOKENS], jax.tree.map(lambda leaf: leaf[0], params["blocks"])
    y = x / np.sqrt(np.square(x).mean(-1, keepdims=True) + MULTI.blocks.norm_eps) * block["attention_norm"]["scale"]
    q, k = (
        (y @ block["attention"][name]["kernel"] + block["attention"][name]["bias"]).reshape(3, 10, 4, 4)
        for name in ("query", "key")
    )
    scores = np.einsum("bqhd,bkhd->hbqk", q, k) / 2
    largest = np.where(np.tri(10, dtype=bool), scores, -np.inf).max((1, 2, 3))
    np.testing.assert_allclose(told[probes.MAX_LOGIT], largest[None], rtol=1e-4)
    two = clone(MULTI, depth=2, scan=True)
    of_two = reported(two, initial(two))  # a layer's initial values do not depend on how many there are, but on `out`
    assert of_two[probes.SQUARE].shape == (2,) and of_two[probes.MAX_LOGIT].shape == (2, 4)
    np.testing.assert_allclose(of_two[probes.MAX_LOGIT][0], largest, rtol=1e-4)


KINDS = {
    "multi": (MULTI, ("query", "key")),
    "grouped": (clone(MULTI, kv_heads=2), ("query",)),
    "latent": (clone(MULTI, pattern=("latent_attention",), bias=False, positions="rotary"), ("query", "kv_up")),
    "query_latent": (
        clone(MULTI, pattern=("latent_attention",), query_latent_width=8, positions="rotary"),
        ("query_up", "kv_up"),
    ),
}


@pytest.mark.parametrize("name", KINDS)
def test_heads_beyond_the_threshold_come_back_to_it_and_no_other_moves(name):
    model, changed = KINDS[name]
    params = jax.tree.map(
        lambda leaf: leaf + 0.1 * np.cos(np.arange(leaf.size, dtype=np.float32)).reshape(leaf.shape), initial(model)
    )
    before = np.float64(reported(model, params)[probes.MAX_LOGIT])
    tau = float(np.sort(before[0])[1:3].mean())  # two of four heads lie above
    after = qk_clip.clipped(model.blocks, params, jnp.float32(before), jnp.float32(tau))
    np.testing.assert_allclose(reported(model, after)[probes.MAX_LOGIT], np.minimum(before, tau), rtol=1e-4)
    flat = dict(jax.tree_util.tree_leaves_with_path(params))
    for path, leaf in jax.tree_util.tree_leaves_with_path(after):
        moved = not np.array_equal(leaf, flat[path])
        assert moved == (path[0].key == "blocks" and path[1].key == "attention" and path[2].key in changed), path


def test_the_factors_of_kernels():
    """Of heads of four features: those of one key head each, queries and keys by the root; of two, queries by all of it."""
    largest, tau = np.array([[50.0, 200.0, 400.0, 100.0]]), 100.0
    gamma = np.array([1, 0.5, 0.25, 1])
    for name, power in (("multi", 0.5), ("grouped", 1.0)):
        model, _ = KINDS[name]
        params = initial(model)
        after = qk_clip.clipped(model.blocks, params, jnp.float32(largest), jnp.float32(tau))
        for leaf in ("kernel", "bias"):
            old, new = (np.float64(tree["blocks"]["attention"]["query"][leaf]) for tree in (params, after))
            np.testing.assert_allclose(new, old * np.repeat(gamma**power, 4), rtol=1e-6)


def config(**changes):
    partial = {
        "task": "lm",
        "batch_size": 8,
        "duration": {"steps": 2},
        "mesh": {"data": 1},
        "model": {"name": "decoder", "width": 16, "depth": 2, "heads": 4, "mlp_width": 16, "init_scale": 3.0},
        "optimizer": {"learning_rate": 0.01},
        "schedule": {"name": "constant", "warmup_steps": 0},
        "data": {"corpus": "markov", "seq_len": 16},
        "evaluation": {"batch_size": 8, "tokens": 128},
        "log": {"every": 1},
    }
    full = complete(ConfigDict(partial))
    full.update_from_flattened_dict(changes)
    return full


def test_a_run_clips_alike_over_micro_batches_and_devices(tmp_path):
    clip = {"optimizer.qk_clip": 3.0}
    others = {"mesh.data": 2, "mesh.tensor": 2, "gradient_accumulation_steps": 2}
    lines = {}
    for name, changes in {"clipped": clip, "wide": clip | others}.items():
        loop.run(config(**changes), tmp_path / name)
        lines[name] = list(read_metrics(tmp_path / name))
    assert lines["clipped"][0]["qk_clip/heads"] > 0 and lines["clipped"][0]["qk_clip/max_logit"] > 3
    for narrow, wide in zip(lines["clipped"], lines["wide"], strict=True):
        for key in ("loss", "qk_clip/heads", "qk_clip/max_logit"):
            assert narrow[key] == pytest.approx(wide[key], rel=2e-4), key
    one, other = (checkpoint.load_params(tmp_path / name, name="params") for name in ("clipped", "wide"))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4), one, other)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.qk_norm": True}, "optimizer.qk_clip: model.qk_norm normalises queries and keys"),
        ({"model.pattern": ("attention", "mamba2")}, "optimizer.qk_clip: mamba2 has no attention logits"),
        ({"mesh.stage": 2}, "mesh.stage: blocks report no statistics across it"),
        ({"optimizer.name": "muonh", "optimizer.weight_decay": 0.0}, "optimizer.qk_clip: muonh would undo"),
        ({"optimizer.qk_clip": -1.0}, "optimizer.qk_clip: must be positive, or 0 for none, got -1"),
        ({"replicas.count": 2}, "optimizer.qk_clip: replicas and workers"),
    ],
)
def test_what_cannot_be_clipped(changes, message):
    with pytest.raises(BadInput, match=message):
        resolve(config(**{"optimizer.qk_clip": 100.0} | changes))


def test_the_root_mean_square_of_each_layer_in_its_place():
    """One dense block before a pattern of two kinds over three blocks: layers 0, then 1 and 3, then 2."""
    rng = np.random.default_rng(0)
    shapes = {"dense_blocks": (1, 2, 3), "blocks_0": (2, 2, 3), "blocks_1": (1, 4, 3), "embed": (5, 3)}
    params = {name: {"kernel": rng.normal(size=shape).astype(np.float32)} for name, shape in shapes.items()}
    axes = {name: {"kernel": Axes(("layers", "embed", "mlp"))} for name in shapes} | {
        "embed": {"kernel": Axes(("vocab", "embed"))}
    }
    found = statistics.rms(params, axes)
    rows = [params["dense_blocks"], params["blocks_0"], params["blocks_1"], params["blocks_0"]]
    expected = [np.sqrt(np.mean(tree["kernel"][i] ** 2)) for tree, i in zip(rows, (0, 0, 0, 1), strict=True)]
    np.testing.assert_allclose(found["matrix"], expected, rtol=1e-6)
    np.testing.assert_allclose(found["embedding/outside"], np.sqrt(np.mean(params["embed"]["kernel"] ** 2)), rtol=1e-6)


def test_a_run_reports_what_its_checkpoints_hold(tmp_path):
    """Of four steps in calls of two, the second and the fourth."""
    changes = {"log.statistics": 2, "duration.steps": 4, "steps_per_call": 2, "checkpoint.keep_every": 3}
    changes |= {"model.pattern": ("attention", "gated_linear"), "model.depth": 3, "model.kv_heads": 2}
    watched = loop.run(config(**changes), tmp_path / "watched")
    plain = loop.run(config(**changes | {"log.statistics": 0}), tmp_path / "plain")
    assert watched["loss"] == pytest.approx(plain["loss"], rel=1e-5) and watched["run_id"] == plain["run_id"]
    lines = list(read_metrics(tmp_path / "watched"))
    named = [{key for key in line if key.startswith(("activations/", "attention/", "weights/"))} for line in lines]
    assert [bool(names) for names in named] == [False, True, False, True]
    params = checkpoint.load_params(tmp_path / "watched", name="params")
    second = jax.tree.leaves({key: params["blocks_1"][key] for key in params["blocks_1"]})
    squares = [np.square(np.float64(leaf[0])) for leaf in second if np.ndim(leaf) > 2]
    values = np.concatenate([square.ravel() for square in squares])
    assert lines[3]["weights/rms/matrix/layer_01"] == pytest.approx(np.sqrt(values.mean()), rel=1e-4)
    for name in ("activations/rms/layer_02", "updates/rms/vector/layer_00", "weights/rms/embedding/outside"):
        assert lines[3][name] > 0, name
    assert lines[3]["attention/max_logit/layer_01"] is None and lines[3]["attention/max_logit/layer_02"] > 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"log.statistics": -1}, "log.statistics: must not be negative, got -1"),
        ({"log.statistics": 15, "log.every": 10}, "log.statistics: 15 is no multiple of log.every=10"),
        ({"log.statistics": 1, "mesh.context": 2}, "mesh.context: blocks report no statistics across it"),
        ({"log.statistics": 1, "replicas.count": 2}, "log.statistics: replicas and workers"),
    ],
)
def test_where_there_are_none(changes, message):
    with pytest.raises(BadInput, match=message):
        resolve(config(**changes))
