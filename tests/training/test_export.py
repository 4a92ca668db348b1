"""Programs and their weights, of a family that knows neither text nor pixels."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy
from jax import export as jax_export

from training import export, task
from training.config import resolve
from training.errors import BadInput


def parts(batch=None):
    forward = toy.forward(resolve(toy.config()), batch, None)
    net = toy.Net(8, False)
    params = jax.tree.map(
        lambda leaf: leaf.value, net.init(jax.random.key(0), np.zeros((1, 4)))["params"], is_leaf=boxed
    )
    return forward, params, net


def boxed(leaf):
    return hasattr(leaf, "value")


def test_the_folder_gives_the_numbers_of_the_model(tmp_path):
    forward, params, net = parts()
    exported, weights = export.program(forward, params, {}, ["cpu", "tpu"])
    export.save(tmp_path, exported, weights, export.described(forward, exported))
    program = jax_export.deserialize(bytearray((tmp_path / export.PROGRAM).read_bytes()))
    stored = np.load(tmp_path / export.WEIGHTS, allow_pickle=False)
    assert set(stored) == {f"params/{name}" for name in ("kernel", "bias", "head", "last")}
    for rows in (1, 5):
        x = np.random.default_rng(rows).normal(size=(rows, 4)).astype(np.float32)
        np.testing.assert_allclose(program.call(dict(stored), x), net.apply({"params": params}, x), rtol=1e-6)
    record = json.loads((tmp_path / export.RECORD).read_text())
    assert record["inputs"] == [{"name": "x", "dtype": "float32", "shape": ["b", 4]}]
    assert record["output"] == {"axes": ["batch"], "dtype": "float32", "shape": ["b"]}
    assert record["platforms"] == ["cpu", "tpu"] and set(record["sha256"]) == {export.PROGRAM, export.WEIGHTS}


def test_short_dtypes_are_stored_in_one_of_numpys_own_and_computed_in_theirs():
    forward, params, net = parts(batch=3)
    short = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    exported, weights = export.program(forward, short, {}, ["cpu"])
    assert {array.dtype for array in weights.values()} == {np.dtype(np.float32)}
    x = np.ones((3, 4), np.float32)
    expected = jax.jit(net.apply)({"params": short}, x)
    np.testing.assert_array_equal(np.asarray(exported.call(weights, x)), expected)
    with pytest.raises(ValueError):
        exported.call(weights, x[:2])


def test_other_collections_go_along_and_bounds_hold():
    given = (task.Input("x", "float32", ("b",)),)
    forward = task.Forward(lambda p, stats, x: x * p["w"] + stats["s"]["mean"], given, ("batch",), {}, ("b <= 2",))
    exported, weights = export.program(forward, {"w": np.float32(2)}, {"s": {"mean": np.float32(1)}}, ["cpu"])
    assert set(weights) == {"params/w", "s/mean"}
    np.testing.assert_array_equal(exported.call(weights, np.ones(2, np.float32)), [3, 3])
    with pytest.raises(ValueError):
        exported.call(weights, np.ones(3, np.float32))


@pytest.mark.parametrize("platforms", [[], ["gpu"]])
def test_unknown_platforms_are_refused(platforms):
    with pytest.raises(BadInput, match="--platforms"):
        export.check_platforms(platforms)
