"""Masks and rounding between the trained parameters and the model: what they leave, and what the record says of it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, strategies as st

from training import checkpoint, loop, transforms
from training.config import resolve
from training.errors import BadInput
from training.identity import run_id
from training.nets.rounding import parsed
from training.optimizer import Axes
from training.signals import Interrupted
from training.transforms import prune, quantize

AXES = {"stack": Axes(("layers", "embed", "mlp")), "head": Axes(("mlp", None)), "norm": Axes((None,))}
RNG = np.random.default_rng(0)
PARAMS = {
    "stack": RNG.normal(size=(2, 8, 6)).astype(np.float32) * np.array([1.0, 3.0], np.float32)[:, None, None],
    "head": RNG.normal(size=(6, 4)).astype(np.float32),
    "norm": np.ones(4, np.float32),
}


def cut(plan, share=0.0, params=PARAMS, masks=None):
    masks = prune.masks(plan, params, AXES) if masks is None else masks
    hyper = {"sparsity": share, "prune_begin": 0.0, "prune_end": 0.0, "prune_every": 1.0}
    return updated(plan, masks, params, {k: jnp.float32(v) for k, v in hyper.items()})


@functools.partial(jax.jit, static_argnums=0)
def updated(plan, masks, params, hyper):
    return prune.updated(plan, masks, params, AXES, jnp.float32(0), hyper)


@given(st.floats(0, 0.99))
def test_global_pruning_cuts_the_smallest_of_all_matrices(share):
    masks = cut(prune.Prune("global", None, ("matrix",)), share)
    assert masks["norm"] is None
    sizes = np.concatenate([np.abs(PARAMS[name]).ravel() for name in ("stack", "head")])
    kept = np.concatenate([np.asarray(masks[name]).ravel() for name in ("stack", "head")])
    assert (~kept).sum() == round(np.float32(share) * len(kept))
    assert kept.all() or sizes[~kept].max() <= sizes[kept].min()


def test_each_layer_loses_the_same_share_or_n_of_m():
    by_layer = cut(prune.Prune("layer", None, ("matrix",)), 0.25)
    np.testing.assert_array_equal((~np.asarray(by_layer["stack"])).sum(axis=(1, 2)), [12, 12])
    assert (~np.asarray(by_layer["head"])).sum() == 6
    masks = cut(
        prune.Prune("global", (2, 4), ("matrix",)),
        params={**PARAMS, "head": RNG.normal(size=(4, 6)).astype(np.float32)},
    )
    groups = np.asarray(masks["stack"]).reshape(2, 2, 4, 6)
    assert (groups.sum(axis=2) == 2).all()
    sizes = np.abs(PARAMS["stack"]).reshape(2, 2, 4, 6)
    assert (np.where(groups, sizes, np.inf).min(axis=2) >= np.where(groups, 0, sizes).max(axis=2)).all()


def test_what_is_cut_stays_cut():
    plan = prune.Prune("global", None, ("matrix",))
    first = cut(plan, 0.5)
    grown = jax.tree.map(lambda p: p[::-1] * 10, PARAMS)
    second = cut(plan, 0.6, grown, first)
    assert not (np.asarray(second["stack"]) & ~np.asarray(first["stack"])).any()


def test_the_share_follows_the_cubic_schedule():
    hyper = {"sparsity": 0.8, "prune_begin": 10.0, "prune_end": 30.0}
    found = [
        float(prune.sparsity({k: jnp.float32(v) for k, v in hyper.items()}, jnp.float32(t)))
        for t in (0, 10, 20, 30, 99)
    ]
    np.testing.assert_allclose(found, [0, 0, 0.8 * (1 - 0.5**3), 0.8, 0.8], rtol=1e-6)


def gradual(**changes):
    return {
        "prune.sparsity": 0.6,
        "prune.begin": 0.25,
        "prune.end": 0.75,
        "prune.every": 2,
        "model.width": 10,
        **changes,
    }


def test_a_pruned_run_keeps_its_zeros_and_counts_them(toy, tmp_path):
    result = loop.run(toy.config(**gradual(**{"optimizer.ema": 0.9})), tmp_path / "run")
    assert result["density"] == pytest.approx(0.4) and result["params_nonzero"] == 61 - 30
    assert result["size_bytes"] == 4 * (61 - 30)
    for part in ("params", "ema"):
        kept = checkpoint.load_part(tmp_path / "run", part)
        assert (kept["kernel"] == 0).sum() + (kept["head"] == 0).sum() == 30, part
    dense = loop.run(toy.config(**{"model.width": 10}), tmp_path / "dense")
    assert dense["density"] == 1.0 and dense["params_nonzero"] == 61 and dense["bits_weights"] == 16


def test_a_cut_run_goes_on_with_its_masks(toy, tmp_path, monkeypatch):
    whole = loop.run(toy.config(**gradual()), tmp_path / "whole")

    def stop(step, metrics):
        if step == 11:
            raise KeyboardInterrupt

    config = toy.config(**gradual(**{"checkpoint.every_steps": 5}))
    with pytest.raises((KeyboardInterrupt, Interrupted)):
        loop.run(config, tmp_path / "cut", [stop])
    again = loop.run(config, tmp_path / "cut")
    assert again["continued_from"] and again["loss"] == whole["loss"] and again["density"] == whole["density"]


def test_pruning_at_once_before_the_first_step_and_after_the_last(toy, tmp_path):
    first = loop.run(toy.config(**gradual(**{"prune.begin": 0.0, "prune.end": 0.0})), tmp_path / "first")
    last = loop.run(toy.config(**gradual(**{"prune.begin": 1.0, "prune.end": 1.0})), tmp_path / "last")
    assert first["density"] == last["density"] == pytest.approx(0.4)
    dense = loop.run(toy.config(**{"model.width": 10}), tmp_path / "dense")
    assert last["train_loss"] == pytest.approx(dense["train_loss"], rel=1e-5) and last["loss"] > dense["loss"]
    assert first["loss"] < last["loss"], "what is trained after the cut makes up for it"


def test_sixteen_bits_are_nearly_none_and_two_are_many_fewer(toy, tmp_path):
    dense, sixteen, two = (
        loop.run(toy.config(**{"model.width": 10, "quantize.weights": name}), tmp_path / (name or "dense"))
        for name in ("", "int16", "int2")
    )
    assert sixteen["loss"] == pytest.approx(dense["loss"], rel=1e-2) and two["loss"] > dense["loss"]
    assert (two["bits_weights"], two["bits_activations"]) == (2, 16)
    assert two["size_bytes"] == 50 * 2 / 8 + 4 * 11 + 4 * 11  # matrices and their 11 scales, biases in float32


def test_formats_after_training_are_evaluated_one_by_one(toy, tmp_path):
    result = loop.run(toy.config(**{"model.width": 10, "quantize.post": ("int8", "int2", "fp8")}), tmp_path)
    assert [row["format"] for row in result["post"]] == ["int8", "int2", "fp8"]
    by_name = {row["format"]: row for row in result["post"]}
    assert by_name["int2"]["loss"] > by_name["int8"]["loss"] == pytest.approx(result["loss"], rel=0.05)
    assert by_name["int2"]["size_bytes"] < by_name["int8"]["size_bytes"] < result["size_bytes"]
    params = checkpoint.load_params(tmp_path)
    assert len(np.unique(np.asarray(params["kernel"]))) > 30, "the trained weights themselves are not rounded"


def test_each_output_has_its_scale():
    params = jax.tree.map(jnp.asarray, PARAMS)
    rounded = quantize.weights(params, AXES, ("matrix",), parsed("int2", "k"))
    for name in ("stack", "head"):
        ratio = np.abs(np.asarray(rounded[name])) / np.abs(PARAMS[name]).max(axis=-2, keepdims=True)
        assert ((ratio == 0) | np.isclose(ratio, 1)).all()
    assert rounded["norm"] is params["norm"]
    assert quantize.summed(Axes(("vocab", "embed"))) == (1,)


def test_sections_that_ask_for_nothing_are_no_part_of_a_run(toy):
    plain = run_id(resolve(toy.config()))
    assert run_id(resolve(toy.config(**{"prune.begin": 0.1, "quantize.roles": ("matrix", "embedding")}))) == plain
    assert run_id(resolve(toy.config(**{"prune.sparsity": 0.5}))) != plain
    assert run_id(resolve(toy.config(**{"quantize.weights": "int4"}))) != plain


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prune.sparsity": 1.0}, r"prune.sparsity: must be in \[0, 1\)"),
        ({"prune.sparsity": 0.5, "prune.scope": "all"}, "prune.scope: 'all' is not one of global, layer"),
        ({"prune.sparsity": 0.5, "prune.begin": 0.9}, "prune: want 0 <= begin <= end <= 1"),
        ({"prune.sparsity": 0.5, "prune.every": 0}, "prune.every: must be at least 1"),
        ({"prune.pattern": "4:2"}, "prune.pattern: want n:m with n below m"),
        ({"prune.pattern": "2:4", "prune.sparsity": 0.5}, "prune.sparsity: follows from prune.pattern"),
        ({"prune.pattern": "2:3"}, "prune.pattern: 3 does not divide the [48] inputs of a weight"),
        (
            {"prune.sparsity": 0.5, "prune.roles": ("embedding",)},
            "prune.roles: the model has no parameters of embedding",
        ),
        ({"prune.sparsity": 0.5, "prune.roles": ("matrices",)}, "prune.roles: no role 'matrices'"),
        ({"quantize.weights": "int1"}, "quantize.weights: no format 'int1'"),
        ({"quantize.post": ("int8", "x")}, "quantize.post: no format 'x'"),
        ({"quantize.activations": "int8"}, "quantize.activations: this model has no linear maps"),
    ],
)
def test_what_contradicts_itself_is_named(toy, tmp_path, changes, message):
    with pytest.raises(BadInput, match=message):
        loop.run(toy.config(**changes), tmp_path)


def test_transforms_compile_once_for_all_their_scalars(toy):
    one, two = (
        resolve(toy.config(**gradual(**{"prune.sparsity": s, "quantize.weights": f"int{b}"})))
        for s, b in ((0.5, 4), (0.7, 8))
    )
    assert transforms.of(one) == transforms.of(two) and transforms.hyper(one) != transforms.hyper(two)
