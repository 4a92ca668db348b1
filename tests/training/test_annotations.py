"""Types and shapes of signatures are checked while tests run (`tests/conftest.py`): a call that breaks them is refused."""

import jax.numpy as jnp
import jaxtyping
import pytest

from lm import loss
from training import optimizer
from training.nets import attention

HEADS = jnp.ones((2, 3, 1, 8))  # batch, length, heads, width


@pytest.mark.parametrize(
    "call",
    [
        lambda: attention.attend(HEADS, HEADS[..., :4], HEADS, None, "xla"),
        lambda: attention.attend(HEADS, HEADS[:, :2], HEADS, None, "xla"),
        lambda: loss.cross_entropy(jnp.ones((2, 3, 4)), jnp.ones((7, 4)), jnp.ones((2, 3))),
        lambda: optimizer.clipped({"kernel": jnp.ones(3, jnp.int32)}, jnp.float32(1)),
    ],
    ids=[
        "keys of another width",
        "keys of another length",
        "targets that are no integers",
        "gradients of integers",
    ],
)
def test_a_call_that_breaks_its_annotation_is_refused(call):
    with pytest.raises(jaxtyping.TypeCheckError):
        call()
