"""The mixture-of-experts decoder: its tree, what it equals, costs, meshes, and a run from config to record."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from ml_collections import ConfigDict
from tiers import tiered

from lm import models, recipes, task as family
from lm.cost import cost
from lm.decoder import Decoder
from lm.loss import cross_entropy
from training import config as configs, data, identity, loop, mesh as meshes
from training.cost import count_products
from training.errors import BadInput
from training.lines import read_metrics
from training.nets.block_config import clone, compose

KEY = jax.random.key(0)
DENSE = compose(Decoder, vocab_size=19, depth=2, width=16, heads=4, kv_heads=2, mlp_width=24)
BASE = clone(DENSE, experts=4, experts_per_token=2)
FULL = clone(BASE, activation="swiglu", bias=True, shared_experts=2, norm_topk_prob=False, norm="layer", tied=False)
TOKENS = np.random.default_rng(0).integers(0, 19, (8, 12)).astype(np.int32)

# These programs run once: what the compiler saves on optimising them is most of the time.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def boxed(model):
    return jax.eval_shape(functools.partial(model.init, method="parameters"), KEY)["params"]


@functools.lru_cache
def initial(model):
    return jit(lambda: nn.meta.unbox(model.init(KEY, 1.5, method="parameters"))["params"])()


def total(model, tokens=TOKENS):
    def loss(params):
        states, head, told = model.routed(params, tokens[:, :-1])
        nats = jnp.sum(cross_entropy(states, head, tokens[:, 1:])[0])
        return nats + sum(jnp.sum(told[name]) for name in models.PENALTIES)

    return loss


def loss_and_gradient(model, params):
    return jit(jax.value_and_grad(total(model)))(params)


@functools.lru_cache
def reference(model):
    return jax.device_get(loss_and_gradient(model, initial(model)))


def assert_close(left, right, tolerance=2e-4):
    """But for the rounding of sums, whose terms are as large as the largest of a leaf."""

    def close(a, b):
        np.testing.assert_allclose(a, b, rtol=3e-5, atol=max(tolerance, 2e-5 * np.max(np.abs(b))))

    jax.tree.map(close, jax.device_get(left), right)


def test_the_tree_is_as_documented():
    boxes = jax.tree_util.tree_leaves_with_path(
        boxed(FULL)["blocks"]["mlp"], is_leaf=lambda x: isinstance(x, nn.LogicallyPartitioned)
    )
    found = {"/".join(key.key for key in path): (box.value.shape, box.names) for path, box in boxes}
    expected = {"router/kernel": ((2, 16, 4), ("layers", "embed", None))}
    for name, (rows, columns, *axes) in {
        "up": (16, 24, "embed", "mlp"), "gate": (16, 24, "embed", "mlp"), "down": (24, 16, "mlp", "embed")
    }.items():  # fmt: skip
        expected |= {
            f"{name}/kernel": ((2, 4, rows, columns), ("layers", "expert", *axes)),
            f"{name}/bias": ((2, 4, columns), ("layers", "expert", axes[1])),
        }
        rows, columns = (2 * n if n == 24 else n for n in (rows, columns))
        expected |= {
            f"shared/{name}/kernel": ((2, rows, columns), ("layers", *axes)),
            f"shared/{name}/bias": ((2, columns), ("layers", axes[1])),
        }
    assert found == expected


def test_initial_values_are_those_of_an_mlp():
    model = clone(BASE, width=64, mlp_width=256, shared_experts=2, heads=4, kv_heads=4)
    mlp = jit(lambda: nn.meta.unbox(model.init(KEY, method="parameters"))["params"])()["blocks"]["mlp"]
    spread = {"up": 64**-0.5, "down": 256**-0.5 / 2}
    for name, std in spread.items():
        assert float(mlp[name]["kernel"].std()) == pytest.approx(std, rel=0.02)
        first, second = mlp[name]["kernel"][0, :2]
        assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 4 / first.size**0.5
    assert float(mlp["router"]["kernel"].std()) == pytest.approx(64**-0.5, rel=0.1)
    assert float(mlp["shared"]["down"]["kernel"].std()) == pytest.approx(512**-0.5 / 2, rel=0.02)


WAYS = [{"dispatch": "blocked"}, {"dispatch": "ragged"}, {"capacity_factor": 1.0}]


@pytest.mark.parametrize("change", tiered(WAYS, WAYS[:1]), ids=str)
def test_one_expert_is_the_dense_model(change):
    dense = clone(DENSE, activation="swiglu", bias=True, norm="layer")
    params = initial(dense)

    def of_one_expert(params):
        mlp = jax.tree.map(lambda p: p[:, None], params["blocks"]["mlp"]) | {"router": {"kernel": jnp.ones((2, 16, 1))}}
        return params | {"blocks": params["blocks"] | {"mlp": mlp}}

    def loss(model, method):
        def nats(params):
            states, head, *_ = getattr(model, method)(params, TOKENS[:, :-1])
            return jnp.sum(cross_entropy(states, head, TOKENS[:, 1:])[0])

        return nats

    one = clone(dense, experts=1, experts_per_token=1, **change)
    assert jax.tree.map(jnp.shape, of_one_expert(params)) == jax.tree.map(jnp.shape, nn.meta.unbox(boxed(one)))
    ours = jit(jax.value_and_grad(lambda params: loss(one, "routed")(of_one_expert(params))))(params)
    theirs = jit(jax.value_and_grad(loss(dense, "hidden")))(params)
    assert_close(ours, jax.device_get(theirs), 1e-4)


SWITCHES = [
    {"scan": True},
    {"dispatch": "ragged", "remat": "dots"},
    {"scan": True, "remat": "full"},
    {"capacity_factor": 2.0, "scan": True, "remat": "dots"},  # room for all
]


@pytest.mark.parametrize("switches", tiered(SWITCHES, SWITCHES[3:]), ids=str)
def test_speed_switches_change_neither_initial_values_nor_results(switches):
    fast = clone(FULL, **switches)
    jax.tree.map(np.testing.assert_array_equal, initial(fast), initial(FULL))
    assert_close(loss_and_gradient(fast, initial(FULL)), reference(FULL))


def test_half_precision_routes_in_float32():
    half = clone(BASE, compute_dtype="bfloat16")
    params = initial(BASE)
    states, _, told = jax.eval_shape(half.routed, params, TOKENS)
    assert states.dtype == jnp.bfloat16 and all(leaf.dtype == jnp.float32 for leaf in told.values())
    assert {name: leaf.shape for name, leaf in told.items()} == dict.fromkeys(
        ("load_balancing_loss", "router_z_loss", "dropped"), (2,)
    )
    difference = abs(jit(half)(params, TOKENS) - jit(BASE)(params, TOKENS))
    assert 1e-4 < difference.mean() < 0.1


def test_the_rest_of_the_decoder_goes_with_it():
    """Documents apart, dropout, and blocks whose attention and experts read one norm."""
    params = initial(BASE)
    segments = np.repeat([[0] * 5 + [1] * 7], 8, axis=0).astype(np.int32)
    model = clone(BASE, parallel_block=True, dropout=True)
    params = initial(model)
    apart = jit(model)(params, TOKENS, segments)
    alone = jit(model)(params, TOKENS[:, 5:])
    np.testing.assert_allclose(apart[:, 5:], alone, atol=1e-5)
    dropped = jit(model)(params, TOKENS, segments, (KEY, jnp.float32(0.5)))
    assert abs(dropped - apart).max() > 0.1


# Meshes -----------------------------------------------------------------------------------------------------------------


def on_mesh(model, sizes):
    grid = meshes.build(sizes)
    placed = jax.device_put(initial(model), meshes.shardings(boxed(model), grid))
    with jax.set_mesh(grid):
        program = jit(jax.value_and_grad(total(model))).lower(placed).compile()
    return program, placed


MIXED, WIDE = {"data": 2, "expert": 2, "tensor": 2}, {"fsdp": 2, "expert": 4}
SPREAD = [
    (change, sizes) for change in ({"capacity_factor": 0.75}, {"dispatch": "ragged"}, {}) for sizes in (MIXED, WIDE)
]


@pytest.mark.parametrize("change, sizes", tiered(SPREAD, SPREAD[:1]), ids=str)
def test_a_mesh_changes_no_value(change, sizes):
    model = clone(FULL, **change)
    program, placed = on_mesh(model, sizes)
    up = placed["blocks"]["mlp"]["up"]["kernel"]
    assert up.addressable_shards[0].data.shape[1] == 4 // sizes["expert"]
    assert_close(program(placed), reference(model))


@pytest.mark.parametrize(
    ("dispatch", "router", "sizes"),  # a router of zero sends all to the experts of one device
    [
        pytest.param("blocked", 0.0, {"data": 1, "fsdp": 2, "expert": 4}, marks=pytest.mark.slow),
        pytest.param("blocked", 1.0, {"data": 2, "expert": 2, "context": 2}, marks=pytest.mark.slow),
        pytest.param("ragged", 0.0, {"data": 2, "expert": 2, "context": 2}, marks=pytest.mark.slow),
        ("ragged", 1.0, {"data": 1, "fsdp": 2, "expert": 4}),
    ],
    ids=str,
)
def test_experts_of_other_devices_change_no_value(dispatch, router, sizes):
    """Nothing is dropped, wherever the experts lie and however uneven the choices: loss and gradients of one device."""
    model, tokens = clone(FULL, dispatch=dispatch), np.random.default_rng(1).integers(0, 19, (8, 13)).astype(np.int32)
    params = jax.tree_util.tree_map_with_path(
        lambda path, leaf: router * leaf if "router" in jax.tree_util.keystr(path) else leaf, initial(model)
    )

    def mean(params):
        return total(model, tokens)(params) / tokens.size

    expected = jax.device_get(jit(jax.value_and_grad(mean))(params))
    grid = meshes.build(sizes)
    placed = jax.device_put(params, meshes.shardings(boxed(model), grid))
    with jax.set_mesh(grid):
        found = jax.device_get(jit(jax.value_and_grad(mean))(placed))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), found, expected)


def test_without_a_capacity_tokens_travel_too():
    """No device holds a layer's other experts, or rows for all tokens and experts: it has four devices' 11 tokens."""
    text = on_mesh(clone(BASE, dispatch="ragged"), {"data": 1, "fsdp": 2, "expert": 4})[0].as_text()
    assert "f32[4,16,24]" not in text and "f32[1,16,24]" in text
    rows = 4 * (8 // 8) * 11
    assert f"f32[{rows},24]" in text and f"f32[{4 * rows},24]" not in text


def test_with_a_capacity_tokens_travel_to_their_experts():
    """An exchange in each direction for every layer, forward and back; no device holds a layer's other experts."""
    text = on_mesh(clone(BASE, capacity_factor=1.0), {"data": 2, "expert": 4})[0].as_text()
    assert text.count(" all-to-all(") == 2 * 2 * 2
    assert "f32[4,16,24]" not in text and "f32[1,16,24]" in text


# Costs ------------------------------------------------------------------------------------------------------------------


@st.composite
def mixtures(draw):
    count = draw(st.integers(1, 5))
    return clone(
        BASE,
        mlp_width=draw(st.integers(1, 20)),
        experts=count,
        experts_per_token=draw(st.integers(1, count)),
        shared_experts=draw(st.integers(0, 2)),
        capacity_factor=draw(st.sampled_from((0.0, 0.5, 1.25))),
        activation=draw(st.sampled_from(("gelu", "swiglu"))),
        remat=draw(st.sampled_from(("none", "full", "dots"))),
        **{name: draw(st.booleans()) for name in ("bias", "parallel_block", "scan", "tied")},
        attention="xla",
        dispatch="ragged",
    )


@given(mixtures(), st.integers(2, 9))
@settings(max_examples=8, deadline=None)
def test_costs_are_those_of_the_tree_and_the_jaxpr(model, length):
    said, tree = cost(model, length), nn.meta.unbox(boxed(model))
    mlp = tree["blocks"]["mlp"]
    size = lambda part: sum(leaf.size for leaf in jax.tree.leaves(part))
    routed = {name: part for name, part in mlp.items() if name in ("up", "gate", "down")}
    assert (said.params["mlp"], said.params["router"]) == (size(routed), size(mlp["router"]))
    assert said.params["shared"] == size(mlp.get("shared", {})) and said.params_total == size(tree)
    assert (
        said.active
        == said.params_total
        - size(routed) * (model.blocks.moe.experts - model.blocks.moe.experts_per_token) // model.blocks.moe.experts
    )
    loss = total(model, TOKENS[:3, : length + 1])
    assert count_products(jax.make_jaxpr(loss)(tree)) == 3 * (said.flops_forward + sum(said.routing.values()))
    assert (said.flops_routing > 0) == (model.blocks.moe.capacity_factor > 0)
    counted = count_products(jax.make_jaxpr(jax.grad(loss))(tree))
    assert counted == pytest.approx(3 * said.flops_hardware, rel=1e-12)


def test_a_token_pays_for_its_own_experts_alone():
    few, many = (cost(clone(BASE, experts=count, shared_experts=1), 12) for count in (2, 16))
    assert many.params_total - few.params_total == 14 * 2 * (16 + 2 * 16 * 24)
    assert many.active - few.active == 14 * 2 * 16  # the router's
    assert many.forward["mlp"] == few.forward["mlp"] == 2 * cost(DENSE, 12).forward["mlp"]
    assert many.forward["shared"] == cost(DENSE, 12).forward["mlp"]


# Runs -------------------------------------------------------------------------------------------------------------------


def config(tmp_path, **changes):
    for name in range(12):
        (tmp_path / f"{name}.txt").write_text("abcdefgh" * (50 + name))
    files = {"corpus": "files", "corpus_args": {"paths": f"{tmp_path}/*.txt"}, "seq_len": 32, "eval_fraction": 0.25}
    full = configs.complete(
        ConfigDict(
            {
                "task": "lm",
                "batch_size": 8,
                "duration": {"steps": 20},
                "mesh": {"data": 1},
                "model": {"name": "moe", "width": 16, "depth": 1, "heads": 2, "mlp_width": 16, "experts": 4},
                "optimizer": {"learning_rate": 0.03},
                "data": {**files, "cache_dir": f"{tmp_path}/cache"},
                "log": {"every": 1},
            }
        )
    )
    full.update_from_flattened_dict(changes)
    return full


def test_a_run_records_what_its_experts_did(tmp_path):
    full = config(tmp_path, **{"model.capacity_factor": 0.5})
    result = loop.run(full, tmp_path / "run")
    lines = read_metrics(tmp_path / "run")
    assert result["status"] == "completed" and result["loss"] < 1.0 < lines[0]["loss"]
    assert result["params_active"] == result["params_total"] - 2 * 2 * 16 * 16
    assert result["flops_6nd_active"] == 6 * result["params_active"] * result["tokens"]
    assert (result["experts"], result["experts_per_token"], result["granularity"]) == (4, 2, 4.0)
    assert result["dispatch"] == "blocked (auto on cpu)"
    for line in lines:
        assert (
            0.9 < line["moe/load_balancing_loss"] < 4
            and 0.45 < line["moe/dropped"] < 0.75
            and line["moe/router_z_loss"] > 0
        )


def test_the_penalties_are_inputs_that_the_reported_loss_leaves_out(tmp_path):
    task = family.build(configs.resolve(config(tmp_path)))
    params = nn.meta.unbox(task.model.init(KEY, {"init_scale": 1.0}))["params"]
    batch, hyper = task.batch(0, slice(None)), {"dropout": 0.0, "z_loss": 0.0}
    assert {name: task.hyper()[name] for name in models.PENALTIES.values()} == {
        "load_balancing_loss_weight": 0.01,
        "router_z_loss_weight": 0.001,
    }
    loss = jit(lambda hyper: task.model.loss(params, {}, batch, KEY, hyper))
    plain, (sums, _) = loss(hyper | {"load_balancing_loss_weight": 0.0, "router_z_loss_weight": 0.0})
    total, (again, _) = loss(hyper | {"load_balancing_loss_weight": 2.0, "router_z_loss_weight": 0.5})
    assert loss._cache_size() == 1 and plain == sums["loss"] == again["loss"]
    assert float(total) == pytest.approx(
        float(plain + 2 * sums["moe/load_balancing_loss"] + 0.5 * sums["moe/router_z_loss"]), rel=1e-6
    )
    assert sums["weight"] == 8 * 32


@pytest.mark.slow
def test_accumulation_and_meshes_leave_the_losses(tmp_path):
    def losses(name, **changes):
        loop.run(config(tmp_path, **{"model.capacity_factor": 1.0, "duration.steps": 6, **changes}), tmp_path / name)
        return [
            (line["loss"], line["moe/load_balancing_loss"], line["moe/dropped"])
            for line in read_metrics(tmp_path / name)
        ]

    wide = {"mesh.data": 2, "mesh.expert": 2, "mesh.tensor": 2, "gradient_accumulation_steps": 2}
    np.testing.assert_allclose(losses("wide", **wide), losses("one"), rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_experts_of_replicas_train_alike_on_any_mesh(tmp_path):
    def losses(name, **changes):
        apart = {"replicas.count": 2, "replicas.every": 3, "replicas.outer.name": "nesterov", "duration.steps": 4}
        loop.run(config(tmp_path, **apart, **changes), tmp_path / name)
        return [(line["loss"], line["moe/load_balancing_loss"]) for line in read_metrics(tmp_path / name)]

    wide = {"mesh.replica": 2, "mesh.data": 2, "mesh.expert": 2}
    np.testing.assert_allclose(losses("wide", **wide), losses("one"), rtol=1e-4, atol=1e-6)


def test_a_size_counts_all_experts(tmp_path):
    open_shape = {"model.width": None, "model.heads": None, "model.mlp_width": None}
    resolved = configs.resolve(config(tmp_path, **open_shape, **{"model.size": 1e6, "model.depth": 2}))
    assert resolved.derived.params_total == pytest.approx(1e6, rel=0.2)
    assert family.cost(resolved).active < 0.7 * resolved.derived.params_total


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.experts": 1}, "model.experts: 1 are fewer than the 2 of a token"),
        ({"model.experts": 0}, "model.experts: 0 are fewer than the 2 of a token"),
        ({"model.dispatch": "fast"}, "model.dispatch: 'fast' is not one of auto, blocked, ragged"),
        ({"model.load_balancing_loss_weight": -1.0}, "model.load_balancing_loss_weight: must not be negative"),
        ({"model.name": "decoder"}, "model.experts is not used by decoder"),
    ],
)
def test_bad_sections_are_refused(tmp_path, changes, message):
    with pytest.raises(BadInput, match=message):
        configs.resolve(config(tmp_path, **changes))


def test_bfloat16_over_several_cpus_is_refused_before_anything_is_compiled(tmp_path):
    """Their compiler ends the process; one of them, and float32 on all, train."""
    one, eight = meshes.build({}, jax.devices()[:1]), meshes.build({"data": 8})
    whole, half = (configs.resolve(config(tmp_path, **{"precision.compute": n})) for n in ("float32", "bfloat16"))
    for full, mesh in ((whole, one), (whole, eight), (half, one)):
        data.check_divisible(full, mesh)
    with pytest.raises(BadInput, match="^precision.compute: .* bfloat16 experts over several devices; float32$"):
        data.check_divisible(half, eight)


def test_the_learning_rate_goes_by_the_parameters_at_work(tmp_path):
    resolved = configs.resolve(config(tmp_path, **{"optimizer.learning_rate": None, "duration.steps": 200}))
    seen, active = resolved.derived.tokens, family.cost(resolved).active
    assert (
        resolved.optimizer.learning_rate
        == recipes.apply("default", recipes.Target(active, seen, 32, 8))["learning_rate"]
    )
    assert active < resolved.derived.params_total


def test_identity_knows_experts_where_there_are_some(tmp_path):
    mixture = identity.semantic(configs.resolve(config(tmp_path)))
    assert mixture["model.experts"] == 4 and "model.dispatch" not in mixture
    dense = configs.resolve(config(tmp_path, **{"model.name": "decoder", "model.experts": None}))
    assert not {f"model.{key}" for key in models.MIXTURE} & identity.semantic(dense).keys()
