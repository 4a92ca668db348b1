"""Types and shapes of signatures are checked while tests run (`tests/conftest.py`): a call that breaks them is refused."""

import jax.numpy as jnp
import jaxtyping
import pytest

from lm import loss
from training import optimizer
from training.nets import layers

X = jnp.ones((2, 3))


@pytest.mark.parametrize(
    "call",
    [
        lambda: layers.rms_norm(X, jnp.ones(4), 1e-5),
        lambda: layers.linear({"kernel": jnp.ones((4, 5))}, X),
        lambda: loss.cross_entropy(jnp.ones((2, 3, 4)), jnp.ones((7, 4)), jnp.ones((2, 3))),
        lambda: optimizer.clipped({"kernel": jnp.ones(3, jnp.int32)}, jnp.float32(1)),
    ],
    ids=[
        "a scale of another width",
        "a kernel of other inputs",
        "targets that are no integers",
        "gradients of integers",
    ],
)
def test_a_call_that_breaks_its_annotation_is_refused(call):
    with pytest.raises(jaxtyping.TypeCheckError):
        call()
