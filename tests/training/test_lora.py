"""Low-rank adaptation: what the factors add, what learns and what stands still, and what is left when they are merged."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy
from tiers import tiered

from training import checkpoint, load, loop, state as states, step as steps, step_spec
from training.config import resolve
from training.errors import BadInput
from training.identity import run_id
from training.optimizer import Axes
from training.signals import Interrupted
from training.task import Model, resolve as family_of
from training.transforms import lora

WIDTH = 11


def config(**changes):
    return toy.config(**{"model.width": WIDTH, **changes})


@pytest.fixture(scope="module")
def parent(tmp_path_factory):
    path = tmp_path_factory.mktemp("parent") / "run"
    return path, loop.run(config(), path)


def adapted(parent, **changes):
    return config(**{"init_from.run": str(parent), "lora.rank": 2, "lora.targets": ("kernel",), "seed": 3, **changes})


def stored(path):
    return {name: np.asarray(leaf) for name, leaf in checkpoint.load_params(path).items()}


def test_the_gradients_of_the_factors_follow_from_that_of_the_matrix():
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
    x, target = draw(7, 5), draw(2, 7, 4)
    params = {"w": draw(2, 5, 4), "w_lora_in": draw(2, 5, 3), "w_lora_out": draw(2, 3, 4)}
    params["w_lora_scale"] = jnp.array([0.5, 2.0])
    loss = lambda tree: jnp.sum(jnp.square(jnp.einsum("bi,lio->lbo", x, tree["w"]) - target))
    found = jax.grad(lambda tree: loss(lora.merged(tree)))(params)
    whole = {"w": params["w"] + params["w_lora_scale"][:, None, None] * params["w_lora_in"] @ params["w_lora_out"]}
    gradient = jax.grad(loss)(whole)["w"] * params["w_lora_scale"][:, None, None]
    np.testing.assert_allclose(found["w_lora_in"], gradient @ params["w_lora_out"].mT, rtol=2e-4)
    np.testing.assert_allclose(found["w_lora_out"], params["w_lora_in"].mT @ gradient, rtol=2e-4)
    np.testing.assert_allclose(lora.merged(params)["w"], whole["w"], rtol=1e-6)
    assert set(lora.merged(params)) == {"w"}


def test_factors_lie_beside_matrices_of_stacks_too():
    box = lambda shape, names: nn.LogicallyPartitioned(jnp.ones(shape), names)
    tree = {"mlp": {"kernel": box((3, 8, 6), ("layers", "embed", "mlp")), "bias": box((3, 6), ("layers", "mlp"))}}

    class Fixed(Model):
        def init(self, key, hyper):
            return {"params": tree}

    made = lora.Lora(Fixed(), 2, (".*kernel",)).init(jax.random.key(0), {"lora_alpha": jnp.float32(8)})
    found = made["params"]["mlp"]
    shapes = {name: leaf.value.shape for name, leaf in found.items() if "lora" in name}
    assert shapes == {"kernel_lora_in": (3, 8, 2), "kernel_lora_out": (3, 2, 6), "kernel_lora_scale": (3,)}
    assert found["kernel_lora_in"].names == ("layers", "embed", None)
    assert found["kernel_lora_out"].names == ("layers", None, "mlp")
    assert (found["kernel_lora_out"].value == 0).all() and (found["kernel_lora_scale"].value == 4).all()
    assert np.std(found["kernel_lora_in"].value) == pytest.approx(8**-0.5, rel=0.35)
    axes = {"a": {"kernel": Axes(("embed",)), "kernel_lora_in": Axes(("embed", None))}}
    assert lora.plain(axes) == {"a": {"kernel": Axes(("embed",))}}
    with pytest.raises(BadInput, match="lora.targets: no matrix matches 'mlp/bias'"):
        lora.added(tree, ("mlp/bias",), lambda name, leaf: {})


def test_only_the_factors_learn_and_the_first_loss_is_the_parents(parent, tmp_path):
    path, record = parent
    still = loop.run(adapted(path, **{"optimizer.learning_rate": 1e-12}), tmp_path / "still")
    assert still["loss"] == pytest.approx(record["loss"], rel=1e-6)
    moving = {"model.noise": 1.0, "optimizer.learning_rate": 0.05, "optimizer.weight_decay": 0.3}
    result = loop.run(adapted(path, **moving), tmp_path / "run")
    before, after = stored(path), stored(tmp_path / "run")
    for name, leaf in before.items():
        np.testing.assert_array_equal(after[name], leaf, err_msg=name)
    assert np.abs(after["kernel_lora_out"]).max() > 1e-3
    assert result["params_trained"] == 2 * (toy.FEATURES + WIDTH) < result["params_total"] == record["params_total"]
    assert result["params_nonzero"] == record["params_total"], "the merged model is what is counted"
    merged = load.parameters(tmp_path / "run", load.config_of(tmp_path / "run"), {"params": {}})
    expected = before["kernel"] + 8 * after["kernel_lora_in"] @ after["kernel_lora_out"]
    np.testing.assert_allclose(merged["kernel"], expected, rtol=1e-5)
    assert merged.keys() == before.keys()


def test_a_child_of_an_adapted_run_begins_with_the_merged_model(parent, tmp_path):
    path, _ = parent
    first = loop.run(adapted(path, **{"optimizer.learning_rate": 0.05}), tmp_path / "first")
    frozen = {"optimizer.learning_rate": 1e-12, "optimizer.weight_decay": 0.0}
    child = loop.run(config(**{"init_from.run": str(tmp_path / "first")}, **frozen), tmp_path / "plain")
    again = loop.run(adapted(tmp_path / "first", **frozen), tmp_path / "again")
    assert child["loss"] == pytest.approx(first["loss"], rel=1e-5) == again["loss"]
    assert set(stored(tmp_path / "plain")) == {"kernel", "bias", "head", "last"}


@pytest.mark.parametrize("optimizer", tiered(["adamw", "muon"], ["muon"]))
def test_what_stands_still_has_no_moments_and_a_cut_run_goes_on(parent, tmp_path, optimizer):
    changes = {"optimizer.name": optimizer, "optimizer.lr_multipliers": (("last", 1.0),), "checkpoint.every_steps": 5}
    full = resolve(adapted(parent[0], **changes))
    task = family_of("toy").build(full)
    spec = step_spec.of(task.model, full)
    variables = states.boxed(spec.model, step_spec.hyper(full, task))
    transform = steps._transform(spec, states.axes(variables), variables)
    moments = jax.eval_shape(transform.init, nn.meta.unbox(variables["params"]))
    sizes = {leaf.size for leaf in jax.tree.leaves(moments)}
    assert toy.FEATURES * WIDTH not in sizes and 2 * WIDTH in sizes

    whole = loop.run(adapted(parent[0], **changes), tmp_path / "whole")
    assert whole["params_trained"] == 2 * (toy.FEATURES + WIDTH) + 1, "and what lr_multipliers names"

    def stop(step, metrics):
        if step == 11:
            raise KeyboardInterrupt

    with pytest.raises((KeyboardInterrupt, Interrupted)):
        loop.run(adapted(parent[0], **changes), tmp_path / "cut", [stop])
    again = loop.run(adapted(parent[0], **changes), tmp_path / "cut")
    assert again["continued_from"] and again["loss"] == whole["loss"]


def test_a_run_without_factors_keeps_its_name_and_alpha_compiles_nothing_anew(parent):
    plain = run_id(resolve(config()))
    assert run_id(resolve(config(**{"lora.alpha": 3.0}))) == plain
    one, two = (resolve(adapted(parent[0], **{"lora.alpha": alpha})) for alpha in (4.0, 8.0))
    assert run_id(one) != run_id(two)
    task = family_of("toy").build(one)
    assert step_spec.of(task.model, one) == step_spec.of(task.model, two)
    assert step_spec.hyper(one, task)["lora_alpha"] == 4 and "lora_alpha" not in step_spec.hyper(
        resolve(config()), task
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"init_from.run": ""}, "lora.rank: adapts what another run has learnt; give init_from.run"),
        ({"lora.rank": -1}, "lora.rank: must not be negative, got -1"),
        ({"lora.alpha": 0.0}, "lora.alpha: must be positive"),
        ({"lora.targets": ("(",)}, r"lora.targets: '\(' is no regular expression"),
        ({"lora.targets": ("kernel", "bias")}, "lora.targets: no matrix matches 'bias'"),
        ({"prune.sparsity": 0.5}, "lora.rank: does not go with prune"),
        ({"quantize.post": ("int8",)}, "lora.rank: does not go with quantize"),
        ({"replicas.count": 2}, "lora.rank: does not go with replicas"),
        ({"async_sgd.workers": 2}, "lora.rank: does not go with async_sgd"),
    ],
)
def test_contradictions_are_refused_and_leave_nothing(parent, tmp_path, changes, message):
    with pytest.raises(BadInput, match=message):
        loop.run(adapted(parent[0], **changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()
