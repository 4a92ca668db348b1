"""Recurrent cells over the length of a sequence, step by step."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from training.mesh import constrain
from training.nets.primitives import upcast_to_f32
from training.types import Params

Bias = Float[Array, " width"] | None
State = tuple[Array, ...]  # of one layer, each [batch, width], float32; the first is what the next layer reads
Starts = Bool[Array, "batch length"]


class Cell(NamedTuple):
    """One kind of recurrent cell.

    Attributes:
      gates: their names, in the order of the kernels' first axis.
      parts: arrays of the state.
      step: (state, from the input, from the state, hidden bias) -> state. What comes of the input [gates, batch, width]
        holds the biases of the gates; what comes of the state is its product with the recurrent kernels.
      hidden_bias: whether the last gate's recurrent part has a bias of its own.
    """

    gates: tuple[str, ...]
    parts: int
    step: Callable[[State, Array, Array, Bias], State]
    hidden_bias: bool = False


def _rnn(state: State, x: Array, h: Array, bias: Bias) -> State:
    del state, bias
    return (jnp.tanh(x[0] + h[0]),)


def _gru(state: State, x: Array, h: Array, bias: Bias) -> State:
    assert bias is not None
    reset, update = jax.nn.sigmoid(x[0] + h[0]), jax.nn.sigmoid(x[1] + h[1])
    new = jnp.tanh(x[2] + reset * (h[2] + bias))
    return (new + update * (state[0] - new),)


def _lstm(state: State, x: Array, h: Array, bias: Bias) -> State:
    del bias
    enter, keep, new, show = x + h
    memory = jax.nn.sigmoid(keep) * state[1] + jax.nn.sigmoid(enter) * jnp.tanh(new)
    return jax.nn.sigmoid(show) * jnp.tanh(memory), memory


CELLS: dict[str, Cell] = {
    "rnn": Cell(("new",), 1, _rnn),  # Elman 1990
    "gru": Cell(("reset", "update", "new"), 1, _gru, True),  # Cho et al. 2014, reset after the product, as in cuDNN
    "lstm": Cell(("input", "forget", "new", "output"), 2, _lstm),  # Hochreiter and Schmidhuber 1997, Gers et al. 2000
}


def cells(
    cell: Cell, p: Params, x: Float[Array, "batch length width"], starts: Starts | None, state: State
) -> tuple[Float[Array, "batch length width"], State]:
    """A layer of cells over a sequence: one product with the inputs of all steps, then one with the state a step.

    Args:
      p: the layer's parameters: {"input", "recurrent"}/kernel (gates, width, width), bias/GATE (width), and where the cell
        has a hidden bias, bias/hidden.
      starts: where the state is set to zero before a token; None: nowhere.
      state: before the first token.
    Returns:
      What the cells put out, in x's dtype, and the state after the last token.
    """
    bias = jnp.stack([upcast_to_f32(p["bias"][gate]) for gate in cell.gates])[:, None]
    # Gates beside each other in one product: (width, gates, width), whose last axis alone is split over devices.
    entering, kernel = (jnp.swapaxes(p[name]["kernel"].astype(x.dtype), 0, 1) for name in ("input", "recurrent"))
    # Gathered once, not at every step; split over two mesh axes, its gradients or even the loss come out wrong (jax 0.10.2,
    # findings/jax_scan_of_a_sharded_kernel.sh).
    kernel = constrain(kernel, None, None, "mlp")
    inputs = jnp.einsum("btd,dgh->tgbh", x, entering, preferred_element_type=bias.dtype) + bias
    hidden = upcast_to_f32(p["bias"]["hidden"]) if cell.hidden_bias else None

    def step(
        state: State, now: tuple[Float[Array, "gates batch width"], Bool[Array, " batch"] | None]
    ) -> tuple[State, Array]:
        entered, start = now
        if start is not None:
            state = tuple(jnp.where(start[:, None], jnp.zeros((), part.dtype), part) for part in state)
        product = jnp.einsum("bd,dgh->gbh", state[0].astype(x.dtype), kernel, preferred_element_type=bias.dtype)
        state = tuple(constrain(part, "batch", "mlp") for part in cell.step(state, entered, product, hidden))
        return state, state[0].astype(x.dtype)

    state = tuple(constrain(part, "batch", "mlp") for part in state)
    state, out = jax.lax.scan(step, state, (inputs, None if starts is None else starts.T))
    return jnp.swapaxes(out, 0, 1), state
