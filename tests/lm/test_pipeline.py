"""Blocks that devices share out (`mesh.stage`): the same losses, gradients and steps as on one device, or a refusal."""

import functools
import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from tiers import tiered

from lm.decoder import Decoder
from lm.loss import cross_entropy
from training import config as configs, hlo, loop, mesh as meshes
from training.errors import BadInput
from training.nets import pipeline
from training.nets.block_config import clone, compose

KEY = jax.random.key(0)
DECODER = compose(
    Decoder, vocab_size=40, depth=4, width=32, heads=4, kv_heads=2, mlp_width=48, activation="swiglu", qk_norm=True
)
VARIANTS = {
    "documents": {},
    "scanned": {"scan": True, "remat": "full"},
    "rounds": {"pipeline_rounds": 2, "pipeline_microbatches": 4},
    "scanned rounds": {"scan": True, "remat": "named", "pipeline_rounds": 2},
    "two blocks a chunk": {"scan": True, "remat": "named", "depth": 8, "pipeline_rounds": 2},
    "latents": {"pattern": ("latent_attention",), "qk_norm": False},
    "states": {"pattern": ("mamba2",), "depth": 2, "state_width": 5, "chunk_size": 8, "qk_norm": False, "kv_heads": 4},
}
MESHES = [
    {"data": 4, "stage": 2},
    {"data": 1, "stage": 2, "fsdp": 2, "tensor": 2},
    {"data": 2, "stage": 2, "context": 2},
]
ON = {
    "documents": 2,
    "scanned": 1,
    "rounds": 0,
    "scanned rounds": 1,
    "two blocks a chunk": 1,
    "latents": 1,
    "states": 0,
}  # of `MESHES`
TOKENS = np.random.default_rng(0).integers(0, 40, (16, 17)).astype(np.int32)
SEGMENTS = np.cumsum(np.random.default_rng(1).random((16, 16)) < 0.1, axis=1).astype(np.int32)

# These programs run once: what the compiler saves on optimising them is most of the time.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def total(model, params, tokens, segments):
    states, head = model.hidden(params, tokens[:, :-1], segments)
    nats, normaliser = cross_entropy(states, head, tokens[:, 1:])
    return jnp.mean(nats) + 1e-2 * jnp.mean(normaliser**2)


def boxed(model):
    return jax.eval_shape(functools.partial(model.init, method="parameters"), KEY)["params"]


@functools.cache
def reference(model):
    params = jit(lambda: nn.meta.unbox(model.init(KEY, 1.5, method="parameters"))["params"])()
    return params, jax.device_get(jit(jax.value_and_grad(functools.partial(total, model)))(params, TOKENS, SEGMENTS))


def compiled(model, params, sizes):
    grid = meshes.build(sizes)
    placed = jax.device_put(params, meshes.shardings(boxed(model), grid))
    with jax.set_mesh(grid):
        program = jit(jax.value_and_grad(functools.partial(total, model))).lower(placed, TOKENS, SEGMENTS).compile()
        return program, jax.device_get(program(placed, TOKENS, SEGMENTS))


@pytest.mark.parametrize("variant", tiered(VARIANTS, ["scanned rounds"]))
def test_stages_change_no_value(variant):
    model = clone(DECODER, **VARIANTS[variant])
    params, expected = reference(model)
    _, found = compiled(model, params, MESHES[ON[variant]])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), found, expected)


def test_a_stage_holds_its_blocks_and_hands_on_what_they_make():
    model = clone(DECODER, scan=True)
    params, _ = reference(model)
    grid = meshes.build({"data": 2, "stage": 4})
    placed = jax.device_put(params, meshes.shardings(boxed(model), grid))
    assert placed["blocks"]["mlp"]["up"]["kernel"].addressable_shards[0].data.shape[0] == 1  # of four blocks
    program, _ = compiled(model, params, {"data": 2, "stage": 4})
    text = hlo.computations(program.as_text())
    rows = hlo.collectives(text, hlo.executions(text), grid)
    handed = [row for row in rows if row.kind == "collective-permute" and row.axes == ("stage",)]
    assert handed, "the stages hand nothing on"
    # A device's stream of a microbatch at every tick: what is handed on, what the last stage hands to the first, and back.
    plan = pipeline.schedule(4, 1, 0, 4, 16, 2)
    stream = 4 * 16 * 32 * (16 // plan.microbatches // 2)
    assert sum(row.ring_bytes for row in handed) <= 5 * plan.ticks * stream
    assert not [row for row in rows if "stage" in row.axes and row.kind == "all-gather" and row.ring_bytes > 2**16]


@pytest.mark.parametrize("stages, rounds, count", [(2, 1, 2), (4, 1, 6), (3, 2, 3), (2, 3, 8)])
def test_every_microbatch_passes_every_chunk_once_and_in_order(stages, rounds, count):
    """By the numbers that a stage computes from the tick: what it works at is there, and is kept only when it is new."""
    plan = pipeline.Schedule(stages, rounds, count)
    passed = {index: [] for index in range(count)}
    for tick in range(plan.ticks):
        for stage in range(stages):
            if 0 <= tick - stage < count * rounds:
                turn, index = divmod(tick - stage, count)
                passed[index].append((tick, turn * stages + stage))
    for steps in passed.values():
        assert [chunk for _, chunk in steps] == list(range(stages * rounds))
        assert all(a < b for (a, _), (b, _) in itertools.pairwise(steps))
    idle = stages * plan.ticks - stages * rounds * count
    assert plan.bubble == pytest.approx(idle / (stages * plan.ticks))


def config(**changes):
    given = {
        "task": "lm",
        "batch_size": 16,
        "duration": {"steps": 4},
        "model": {"width": 16, "depth": 4, "heads": 2, "dropout": 0.0},
        "data": {"corpus": "markov", "seq_len": 16, "vocab_size": 32},
        "optimizer": {"learning_rate": 0.01},
        "evaluation": {"tokens": 512, "batch_size": 16},
        "log": {"every": 1},
    }
    raw = configs.complete(ConfigDict(given | {"model": changes.pop("model", given["model"])}))
    with raw.unlocked():
        raw.update_from_flattened_dict(changes)
    return configs.resolve(raw)


def test_a_run_is_the_same_on_stages(tmp_path):
    one = loop.run(config(**{"mesh.data": 1}), tmp_path / "one")
    other = loop.run(config(**{"mesh.data": 2, "mesh.stage": 4, "model.scan": True}), tmp_path / "other")
    assert one["run_id"] == other["run_id"]
    assert other["loss"] == pytest.approx(one["loss"], rel=1e-5)


REFUSED = {
    "depth": ({"model.depth": 6, "mesh.stage": 4}, "mesh.stage: 4 stages in 1 rounds .* do not divide 6 blocks"),
    "experts": ({"model.name": "moe", "mesh.stage": 2}, "mesh.stage: stages hold dense blocks that are all alike"),
    "dropout": ({"model.dropout": 0.1, "mesh.stage": 2}, "mesh.stage: microbatches would be dropped alike"),
    "a recurrent model": (
        {"model": {"name": "lstm", "width": 16}, "mesh.stage": 2},
        "mesh.stage: lstm needs all of its layers",
    ),
    "rounds": ({"model.pipeline_rounds": 0, "mesh.stage": 2}, "model.pipeline_rounds: must be positive"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_stages_is_refused_in_one_line(case):
    changes, message = REFUSED[case]
    with pytest.raises(BadInput, match=message) as error:
        config(**changes)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("key", ["batch_size", "evaluation.batch_size"])
def test_too_few_rows_are_refused_before_anything_is_trained(tmp_path, key):
    with pytest.raises(BadInput, match="mesh.stage: 2 rows over 1 shards make 2 microbatches, fewer than the 4 stages"):
        loop.run(config(**{key: 2, "mesh.data": 1, "mesh.stage": 4}), tmp_path / "run")
    assert not (tmp_path / "run").exists()
