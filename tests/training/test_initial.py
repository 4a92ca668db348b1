"""Initial values: what a module declares is what it draws, and what it reads again, stacked or not."""

import functools

import flax.linen as nn
import jax
import numpy as np
import pytest

from training.nets.initial import Leaf, parameters

LEAVES = {
    "table": {"embedding": Leaf((64, 8), ("vocab", "embed"), 0.5)},
    "norm": {"scale": Leaf((8,), (None,), offset=1.0)},
}
LAYER = {"up": {"kernel": Leaf((8, 32), ("embed", "mlp"), 0.25)}}


class Net(nn.Module):
    depth: int = 0

    @nn.compact
    def __call__(self, scale=1.0):
        stacks = {"layers": (LAYER, self.depth)} if self.depth else {}
        return parameters(self, LEAVES, stacks, scale, "float32")


@functools.lru_cache
def boxed(model, scale=1.0):
    return model.init(jax.random.key(0), scale)["params"]


def test_a_module_reads_what_it_drew_with_stacks_and_without():
    for model in (Net(), Net(depth=3)):
        drawn = boxed(model)
        assert set(drawn) == {"table", "norm"} | ({"layers"} if model.depth else set())
        read = model.apply({"params": drawn})
        jax.tree.map(np.testing.assert_array_equal, read, nn.meta.unbox(drawn))


def test_leaves_have_their_names_spread_and_offset():
    drawn = boxed(Net(depth=3))
    assert drawn["table"]["embedding"].names == ("vocab", "embed")
    assert drawn["layers"]["up"]["kernel"].names == ("layers", "embed", "mlp")
    values = nn.meta.unbox(drawn)
    assert np.std(values["table"]["embedding"]) == pytest.approx(0.5, rel=0.1)
    assert np.std(values["layers"]["up"]["kernel"], axis=(1, 2)) == pytest.approx([0.25] * 3, rel=0.2)
    np.testing.assert_array_equal(values["norm"]["scale"], 1.0)
    doubled = nn.meta.unbox(boxed(Net(depth=3), 2.0))
    np.testing.assert_array_equal(doubled["table"]["embedding"], 2 * values["table"]["embedding"])
    np.testing.assert_array_equal(doubled["norm"]["scale"], 1.0)


def test_a_value_depends_on_neither_the_stacks_nor_their_depth():
    alone, shallow, deep = (nn.meta.unbox(boxed(Net(depth=depth))) for depth in (0, 2, 3))
    for name in LEAVES:
        jax.tree.map(np.testing.assert_array_equal, alone[name], deep[name])
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b[:2]), shallow["layers"], deep["layers"])
