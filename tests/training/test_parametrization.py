"""Parametrizations: multipliers against their papers and against the sizes of updates, and coordinate checks.

The oracle of the table is not the table: what one step of a layer does to what it puts out is computed in float64 from the
definition of Adam's and Muon's updates, at two widths, and has to be equal.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from lm import hf_layouts
from sweeps import plan
from training import (
    checkpoint,
    config as configs,
    data,
    mesh as meshes,
    optimizer,
    parametrization,
    state as states,
    step as steps,
    step_spec,
)
from training.errors import BadInput
from training.nets import initial, stack
from training.parametrization import Scaling, multipliers
from training.task import resolve as family_of

HEAD = 16  # features of a head
DOUBLED = Scaling("completep", False, width=4.0, mlp=8.0, depth=2.0, head=1.0)


def config(name="default", width=64, depth=2, lr=0.01, optimizer="adamw", model=(), **changes):
    partial = {
        "task": "lm",
        "batch_size": 8,
        "duration": {"steps": 4},
        "recipe": {"name": name},
        "model": {"width": width, "depth": depth, "heads": width // HEAD, "scan": True} | dict(model),
        "optimizer": {"learning_rate": lr, "name": optimizer},
        "schedule": {"name": "constant", "warmup_steps": 0},
        "data": {"corpus": "markov", "vocab_size": 64, "seq_len": 32},
    }
    full = configs.complete(ConfigDict(partial))
    for key, value in changes.items():
        *sections, last = key.split(".")
        functools.reduce(lambda section, part: section[part], sections, full)[last] = value
    return configs.resolve(full)


def axes_of(names):
    return optimizer.Axes(names)


# The table against the papers -------------------------------------------------------------------------------------------

KERNEL, OUT = ("layers", "embed", "heads"), ("layers", "heads", "embed")
UP, DOWN = ("layers", "embed", "mlp"), ("layers", "mlp", "embed")
# Of width 4 times, MLP 8 times and depth twice the reference's: initial scale beside the standard one, rate, epsilon, decay.
# Dey et al. 2025, table 1, alpha = 1: hidden variance 1 / fan-in, rate 1 / m_N, epsilon m_N^-1 m_L^-1 and decay m_N; the
# embedding's variance and rate are constant, and its epsilon m_N^-1; norms have the rate m_L^0.
PAPER = {
    ("embed/embedding", ("vocab", "embed"), (300, 256)): (2, 1, 1 / 4, 1),
    ("head/embedding", ("vocab", "embed"), (300, 256)): (2, 1, 1 / 4, 1),
    ("position/embedding", ("position", "embed"), (32, 256)): (2, 1, 1 / 4, 1),
    ("blocks/attention/query/kernel", KERNEL, (4, 256, 256)): (1, 1 / 4, 1 / 8, 4),
    ("blocks/attention/key/kernel", ("layers", "embed", "kv"), (4, 256, 32)): (1, 1 / 4, 1 / 8, 4),  # grouped queries
    ("blocks/attention/out/kernel", OUT, (4, 256, 256)): (2**0.5, 1 / 4, 1 / 8, 4),  # the standard has depth^-1/2
    ("blocks/mlp/up/kernel", UP, (4, 256, 2048)): (1, 1 / 4, 1 / 8, 4),
    ("blocks/mlp/down/kernel", DOWN, (4, 2048, 256)): (2**0.5, 1 / 8, 1 / 8, 8),  # its fan-in is the MLP's width
    ("blocks/mlp/up/kernel", ("layers", "expert", "embed", "mlp"), (4, 8, 256, 512)): (1, 1 / 4, 1 / 8, 4),
    ("blocks/mlp/router/kernel", ("layers", "embed", None), (4, 256, 8)): (1 / 2, 1 / 4, 1 / 2, 4),
    ("blocks/mlp/up/bias", ("layers", "mlp"), (4, 2048)): (1, 1, 1 / 8, 1),
    ("blocks/mlp_norm/scale", ("layers", None), (4, 256)): (1, 1, 1 / 8, 1),
    ("blocks/attention/query_norm/scale", ("layers", None), (4, HEAD)): (1, 1, 1 / 2, 1),  # Mlodozeniec et al.: width^0
    ("final_norm/scale", (None,), (256,)): (1, 1, 1 / 4, 1),
}


@pytest.mark.parametrize(("path", "axes", "shape"), PAPER, ids=lambda x: str(x))
def test_multipliers_are_those_of_the_papers(path, axes, shape):
    found = multipliers(DOUBLED, path, axes_of(axes), shape)
    assert found == pytest.approx(PAPER[path, axes, shape])


def test_depth_is_left_alone_by_mup_and_branches_are_not():
    of_width = DOUBLED._replace(name="mup", depth=1.0)
    assert multipliers(of_width, "blocks/attention/out/kernel", axes_of(OUT), (4, 256, 256)) == (1, 1 / 4, 1 / 4, 4)
    assert parametrization.forward(of_width) == {"logit_multiplier": 0.25}
    assert parametrization.forward(DOUBLED) == {"logit_multiplier": 0.25, "residual_multiplier": 0.5}
    assert parametrization.forward(DOUBLED._replace(head=4.0))["query_multiplier"] == 0.5


# The table against the sizes of updates -----------------------------------------------------------------------------------


def change(fan_in, fan_out, muon, lr):
    """Root mean square of what one update of a kernel does to its output, for the input that made the gradient."""
    rng = np.random.default_rng(0)
    x, g = rng.choice([-1.0, 1.0], fan_in), rng.choice([-1.0, 1.0], fan_out)
    gradient = np.outer(x, g)
    if muon:  # orthogonal, brought to the root mean square 0.2
        noise = 1e-3 * rng.standard_normal(gradient.shape)
        left, _, right = np.linalg.svd(gradient + noise, full_matrices=False)
        update = 0.2 * max(fan_in, fan_out) ** 0.5 * (left @ right)
    else:
        update = np.sign(gradient)
    return lr * np.sqrt(np.mean(np.square(x @ update)))


@pytest.mark.parametrize("muon", [False, True])
@pytest.mark.parametrize(
    ("axes", "sizes"), [(KERNEL, (1, 1)), (UP, (1, 4)), (DOWN, (4, 1)), (("layers", "embed", None), (1, 0))]
)
def test_an_update_moves_what_a_layer_puts_out_as_much_at_every_width(axes, sizes, muon):
    changes = []
    for ratio in (1.0, 4.0):
        shape = tuple(int(16 * ratio * size) or 4 for size in sizes)
        scaling = Scaling("mup", muon, width=ratio, mlp=ratio, depth=1.0, head=1.0)
        factor = multipliers(scaling, "blocks/x/kernel", axes_of(axes), (2, *shape)).lr
        changes.append(change(*shape, muon, factor))
    assert changes[1] == pytest.approx(changes[0], rel=0.1)


def test_the_decay_of_a_step_is_the_same_at_every_width():
    for muon in (False, True):
        found = multipliers(DOUBLED._replace(muon=muon), "blocks/mlp/up/kernel", axes_of(UP), (4, 256, 2048))
        assert found.lr * found.decay == pytest.approx(1)


# In a run -----------------------------------------------------------------------------------------------------------------


@functools.cache
def trained(name, width, depth, optimizer="adamw", lr=0.003, model=(), count=4):
    """The network, the parameters before and after a few steps on one batch, and its tokens."""
    made = config(name, width, depth, lr, optimizer, model)
    task, mesh = family_of("lm").build(made), meshes.build(made.mesh)
    hyper, shapes = step_spec.hyper(made, task), data.shapes(task, made.batch_size)
    programs = steps.programs(step_spec.of(task.model, made), mesh, count, shapes, tuple(hyper))
    before = programs.init(np.int32(0), hyper)
    start = jax.tree.map(np.array, before.params)
    batch = {key: np.repeat(value, count, 0) for key, value in data.batches(task, shapes, mesh, 0, 1).items()}
    after, _ = programs.train(before, batch, np.full(count, lr, np.float32), np.int32(0), hyper)
    tokens = np.array(batch["tokens"], np.int32)[0, :, :-1]
    return task.model.network, start, jax.tree.map(np.array, after.params), tokens


def activations(name, width, depth, **options):
    """Root mean squares of what a few steps change of the stream behind the blocks and of the logits."""
    name = "default" if (width, depth) == (64, 2) else name  # the reference of all
    network, before, after, tokens = trained(name, width, depth, **options)

    def streams(params):
        x = params["embed"]["embedding"][tokens]
        context = network._context(jnp.arange(32))
        return stack.apply(network.blocks, stack.parameters_of(network.blocks, params), x, context)[0]

    with jax.set_mesh(meshes.build({"data": 1})):
        changes = {
            name: jax.jit(read)(after) - jax.jit(read)(before)
            for name, read in {"stream": streams, "logits": lambda params: network(params, tokens)}.items()
        }
    return {name: float(jnp.sqrt(jnp.mean(jnp.square(change)))) for name, change in changes.items()}


def slopes(name, sizes, axis, **options):
    """Exponents of the changes in the width or the depth."""
    rows = [activations(name, **({"width": 64, "depth": 2} | {axis: size}), **options) for size in sizes]
    return {key: np.polyfit(np.log(sizes), np.log([row[key] for row in rows]), 1)[0] for key in rows[0]}


def test_coordinates_stay_as_they_are_over_two_widths():
    assert all(abs(exponent) < 0.25 for exponent in slopes("mup", (64, 128), "width").values())
    assert slopes("default", (64, 128), "width")["stream"] > 0.8


def test_at_the_reference_a_run_is_the_standard_one():
    standard = config()
    horizon = {"recipe.reference.batch_size": 256.0, "recipe.reference.tokens": 1024.0}  # of `config`
    for name in parametrization.TABLE:
        found = config(name, **(horizon if name == "completedp" else {}))
        assert found.derived.parametrization is None and found.derived.run_id == standard.derived.run_id
        assert parametrization.of(found) is None and parametrization.forward(None) == {}
    assert config("mup", width=128).derived.run_id != config(width=128).derived.run_id
    assert (
        config("mup", width=128).derived.run_id
        != config("mup", width=128, **{"recipe.reference.width": 32}).derived.run_id
    )


def test_the_rate_that_is_not_given_is_that_of_the_reference_model():
    wide = config("completep", width=256, depth=4, lr=None).optimizer.learning_rate
    assert (
        wide
        == config(lr=None).optimizer.learning_rate
        == pytest.approx(config("completep", lr=None).optimizer.learning_rate)
    )
    assert wide > config(width=256, depth=4, lr=None).optimizer.learning_rate
    grouped = (("kv_heads", 4),)
    assert (
        config("mup", width=256, lr=None, model=(*grouped, ("heads", 8))).optimizer.learning_rate
        == config(lr=None, model=(("kv_heads", 1), ("heads", 2))).optimizer.learning_rate
    )
    with pytest.raises(BadInput, match="recipe.reference.width: 40 features are no heads as the model's"):
        config("mup", width=256, lr=None, **{"recipe.reference.width": 40})


def test_what_a_horizon_changes_is_in_the_config():
    found = config("completedp", lr=None, **{"recipe.reference.batch_size": 256.0, "recipe.reference.tokens": 256.0})
    assert found.optimizer.b2 == pytest.approx(1 - 0.05 / 4) and found.optimizer.eps == pytest.approx(2e-8)
    assert found.optimizer.weight_decay == pytest.approx(0.05)
    given = config("completedp", **{"optimizer.b2": 0.9, "optimizer.weight_decay": 0.3})
    assert given.optimizer.b2 == 0.9 and given.optimizer.weight_decay == 0.3
    assert configs.resolve(found).derived == found.derived


def test_every_parameter_of_experts_and_grouped_queries_has_its_role():
    model = {"name": "moe", "experts": 4, "kv_heads": 2, "qk_norm": True, "bias": True, "norm": "layer", "tied": False}
    made = config("completep", width=128, depth=4, model=tuple((model | {"scan": True}).items()))
    task = family_of("lm").build(made)
    variables = states.boxed(task.model, step_spec.hyper(made, task))
    axes, params = states.axes(variables), nn.meta.unbox(variables["params"])
    names = jax.tree_util.tree_flatten_with_path(params)[0]
    leaves = jax.tree.leaves(axes, is_leaf=lambda x: isinstance(x, optimizer.Axes))
    roles = {
        checkpoint.name_of(path): parametrization.role(checkpoint.name_of(path), axis)
        for (path, _), axis in zip(names, leaves, strict=True)
    }
    assert {
        roles[f"blocks/{name}"] for name in ("attention/query/kernel", "attention/key/kernel", "mlp/up/kernel")
    } == {"hidden"}
    assert {roles[f"blocks/{name}"] for name in ("attention/out/kernel", "mlp/down/kernel")} == {"residual"}
    assert roles["blocks/mlp/router/kernel"] == "router" and roles["head/embedding"] == "output"
    assert roles["blocks/attention/key_norm/scale"] == "shared" and roles["blocks/mlp/up/bias"] == "vector"
    assert roles["final_norm/scale"] == roles["final_norm/bias"] == "outer"
    factors = parametrization.tree(step_spec.of(task.model, made).scaling, params, axes)
    for tree in factors:
        jax.tree.map(lambda p, f: np.broadcast_shapes(p.shape, f.shape), params, tree)
    assert factors.lr["blocks"]["mlp"]["down"]["kernel"].item() == 0.5


def test_tokens_after_others_have_the_logits_of_the_whole():
    network = family_of("lm").build(config("completep", 128, 4, **{"recipe.reference.head_width": 8})).model.network
    assert network.blocks.residual_multiplier == network.logit_multiplier == 0.5
    assert network.blocks.query_multiplier == pytest.approx(2**-0.5)

    @jax.jit
    def twice(key):
        params, tokens = nn.meta.unbox(initial.variables(network, key)["params"]), jnp.arange(8)[None] % 5
        _, cache = network.extend(params, tokens[:, :7], network.empty_cache(1, 8))
        return network.extend(params, tokens[:, 7:], cache)[0][:, 0], network(params, tokens)[:, -1]

    assert jnp.allclose(*twice(jax.random.key(0)), atol=1e-5)
    with pytest.raises(BadInput, match="--format=llama: no layout has the residual multiplier of recipe.name"):
        hf_layouts.written("llama", network, 32)


def test_runs_that_are_scaled_otherwise_share_no_program():
    keys = {plan.compile_key(config(name, 128, 4)) for name in ("default", "mup", "completep")}
    assert len(keys) == 3
    rates = {plan.compile_key(config("mup", 128, 4, lr)) for lr in (0.01, 0.02)}
    assert len(rates) == 1


def test_a_run_goes_on_from_another_with_its_multipliers_alone(tmp_path):
    parent = config("mup", 128)
    (tmp_path / "config.json").write_text(parent.to_json_best_effort())
    (tmp_path / "checkpoints").mkdir()
    child = {"init_from.run": str(tmp_path)}
    with pytest.raises(BadInput, match=r"was trained with the multipliers logit_multiplier 0.5, and this run has none"):
        config("default", 128, **child)
    with pytest.raises(BadInput, match=r"has no checkpoint"):  # which is all that it lacks
        config("mup", 128, **child)


def test_initial_values_have_the_scale_of_the_table():
    _, standard, *_ = trained("default", 128, 2)
    _, scaled, *_ = trained("mup", 128, 2)
    assert np.allclose(scaled["embed"]["embedding"], 2**0.5 * standard["embed"]["embedding"])
    assert np.array_equal(scaled["blocks"]["mlp"]["up"]["kernel"], standard["blocks"]["mlp"]["up"]["kernel"])


def test_the_first_step_of_each_parameter_has_its_rate_epsilon_and_decay():
    """Against Adam and decoupled decay in float64, from the gradient that the standard model's loss has."""
    made = config("mup", width=128, **{"optimizer.clip": 0.0, "optimizer.eps": 1e-3})
    task, mesh = family_of("lm").build(made), meshes.build(made.mesh)
    hyper, shapes = step_spec.hyper(made, task), data.shapes(task, made.batch_size)
    programs = steps.programs(step_spec.of(task.model, made), mesh, 1, shapes, tuple(hyper))
    state, batch = programs.init(np.int32(0), hyper), data.batches(task, shapes, mesh, 0, 1)
    before = jax.tree.map(lambda x: np.array(x, np.float64), state.params)

    def loss(params):
        total, (sums, _) = task.model.loss(
            params, {}, {key: value[0] for key, value in batch.items()}, jax.random.key(0), hyper
        )
        return total / sums["weight"]

    with jax.set_mesh(mesh):
        grads = jax.tree.map(lambda x: np.array(x, np.float64), jax.jit(jax.grad(loss))(state.params))
    after, _ = programs.train(state, batch, np.full(1, 0.01, np.float32), np.int32(0), hyper)
    for path, lr, eps, decay in (
        (("blocks", "mlp", "down", "kernel"), 1 / 2, 1 / 2, 2),
        (("embed", "embedding"), 1, 1 / 2, 1),
        (("final_norm", "scale"), 1, 1 / 2, 0),
    ):
        p, g, new = (
            functools.reduce(lambda tree, key: tree[key], path, tree) for tree in (before, grads, after.params)
        )
        expected = p - 0.01 * lr * (g / (np.abs(g) + 1e-3 * eps) + 0.1 * decay * p)
        assert np.allclose(np.asarray(new), expected, atol=2e-5)


@pytest.mark.parametrize("name", ["sgd", "nesterov", "adafactor", "adamh", "soap"])
def test_optimizers_without_a_rule_are_refused_by_name(name):
    changes = {"optimizer.weight_decay_roles": ("embedding",)} if name == "adamh" else {}
    with pytest.raises(BadInput, match=f"recipe.name: mup has no rule for the optimizer {name}"):
        config("mup", width=128, optimizer=name, **changes)
    with pytest.raises(BadInput, match="completedp has no rule for the optimizer muon"):
        config("completedp", width=128, optimizer="muon")


def test_models_without_a_rule_are_refused_by_name():
    with pytest.raises(BadInput, match="recipe.name: mup knows no encoder"):
        config("mup", width=128, model=(("name", "encoder"), ("heads", 2)))
    with pytest.raises(BadInput, match="mup knows no latent_attention of model.pattern"):
        config("mup", width=128, model=(("pattern", ("latent_attention",)),))
    with pytest.raises(BadInput, match="recipe.reference.depth: mup does not read it"):
        config("mup", **{"recipe.reference.depth": 4})
    with pytest.raises(BadInput, match="recipe.reference.width: must be positive, got 0"):
        config("mup", **{"recipe.reference.width": 0})


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_coordinates_over_all_widths(optimizer):
    """Initial logits fall as the root of the width, and so does their part in what a few steps change."""
    widths = (32, 64, 128, 256, 512)
    found = slopes("mup", widths, "width", optimizer=optimizer)
    assert abs(found["stream"]) < 0.15 and -0.3 < found["logits"] < 0.15
    assert slopes("default", widths, "width", optimizer=optimizer)["stream"] > 0.3


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_coordinates_over_all_depths(optimizer):
    """Initial branches fall with the depth beside the embeddings, and the final norm divides by both."""
    depths = (2, 4, 8, 16)
    found, standard = (slopes(name, depths, "depth", optimizer=optimizer) for name in ("completep", "default"))
    assert abs(found["stream"]) < 0.2 and abs(found["logits"]) < 0.25
    assert standard["stream"] > 0.5 and standard["logits"] > found["logits"]
