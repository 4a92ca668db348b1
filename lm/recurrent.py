"""Recurrent language models: layers of tanh, GRU or LSTM cells, each of the model's width.

Parameters (L layers, d width, g gates of the cell, in the order of `training.nets.recurrence.CELLS`):

    embed/embedding             (V, d)
    layers/input/kernel         (L, g, d, d)
    layers/recurrent/kernel     (L, g, d, d)
    layers/bias/GATE            (L, d)
    layers/bias/hidden          (L, d)    GRU only
    head/embedding              (V, d)    untied only

Initial values: every kernel is normal with standard deviation 1 / sqrt(2 d), since a gate sums over two kernels; embeddings
and the head are normal with 1 / sqrt(d), and what is read is sqrt(d) times the embedding (Vaswani et al. 2017), of variance
one, as torch begins: no norm would make up for less. Biases are zero but for the forget gate's, which is one (Jozefowicz
et al. 2015). `init_scale` multiplies every standard deviation.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from lm.decoder import Cache, logits
from training.cost import Cost
from training.errors import BadInput
from training.mesh import constrain
from training.nets import initial, layers
from training.nets.initial import Leaf, Leaves, count
from training.nets.layers import Dropout
from training.nets.recurrence import CELLS, cells
from training.types import Params


class Recurrent(nn.Module):
    """A recurrent language model; hashable, so that equal models share compiled steps.

    Attributes:
      vocab_size: symbols.
      cell: a name in `training.nets.recurrence.CELLS`.
      depth: layers.
      width: features of every layer and of the embedding.
      tied: whether the head is the embedding.
      dropout: whether embeddings and what each layer puts out are dropped in training, never the state (Zaremba et al.
        2014); the rate is an argument.
      param_dtype, compute_dtype, logit_dtype: names of dtypes. Gates and states are at least float32.
    """

    vocab_size: int
    cell: str
    depth: int
    width: int
    tied: bool = True
    dropout: bool = False
    param_dtype: str = "float32"
    compute_dtype: str = "float32"
    logit_dtype: str = "float32"

    @nn.compact
    def parameters(self, init_scale: Float[Array, ""] | float = 1.0) -> Params:
        """The parameter tree, as in `lm.decoder.Decoder.parameters`."""
        check(self)
        stacks = {"layers": (_layer(self), self.depth)}
        return initial.parameters(self, _top(self), stacks, init_scale, self.param_dtype)

    def __call__(
        self,
        params: Params,
        tokens: Int[Array, "batch length"],
        segments: Int[Array, "batch length"] | None = None,
        dropout: Dropout | None = None,
    ) -> Float[Array, "batch length vocab"]:
        """Logits of each next token; arguments as in `hidden`."""
        states, head = self.hidden(params, tokens, segments, dropout)
        return logits(states, head, self.logit_dtype)

    def hidden(
        self,
        params: Params,
        tokens: Int[Array, "batch length"],
        segments: Int[Array, "batch length"] | None = None,
        dropout: Dropout | None = None,
    ) -> tuple[Float[Array, "batch length width"], Float[Array, "vocab width"]]:
        """The final hidden states and the head, whose product are the logits, from a state of zero.

        Args:
          params: the parameters, unboxed.
          tokens: ids below `vocab_size`.
          segments: ids of the document of each token: the state is set to zero where one begins; None: one document.
          dropout: (key, rate), used by models with `dropout`; None: nothing is dropped.
        """
        out, head, _ = self.carried(params, tokens, segments, dropout, self.empty_cache(tokens.shape[0]))
        return out, head

    def carried(
        self,
        params: Params,
        tokens: Int[Array, "batch length"],
        segments: Int[Array, "batch length"] | None,
        dropout: Dropout | None,
        cache: Cache,
    ) -> tuple[Float[Array, "batch length width"], Float[Array, "vocab width"], Cache]:
        """As `hidden`, from the state of a cache; returns that after the last token too."""
        names = sorted(cache)
        drop = layers.dropper(dropout if self.dropout else None)
        starts = None
        if segments is not None:
            starts = jnp.pad(segments[:, 1:] != segments[:, :-1], ((0, 0), (1, 0)))
        x = self.width**0.5 * layers.embedded(params["embed"]["embedding"], tokens, self.compute_dtype)
        x = drop(x, -1, 0)
        after = []
        for layer in range(self.depth):
            p = jax.tree.map(lambda leaf, layer=layer: leaf[layer], params["layers"])
            before = tuple(cache[name][layer] for name in names)
            x, last = cells(CELLS[self.cell], p, constrain(x, "batch", None, None), starts, before)
            x = drop(x, layer, 0)
            after.append(last)
        head = params["embed" if self.tied else "head"]["embedding"]
        return x, head, dict(zip(names, map(jnp.stack, zip(*after, strict=True)), strict=True))

    def extend(
        self, params: Params, tokens: Int[Array, "batch new"], cache: Cache
    ) -> tuple[Float[Array, "batch new vocab"], Cache]:
        """Logits of tokens that continue those in a cache, and the cache after them."""
        states, head, after = self.carried(params, tokens, None, None, cache)
        return logits(states, head, self.logit_dtype), after

    def empty_cache(self, batch: int, length: int | None = None, span: Any = None) -> Cache:
        """The state of zero; no length bounds it, and no span, since nothing is looked up in it."""
        del length, span
        shape = (self.depth, batch, self.width)
        return {f"state{i}": jnp.zeros(shape, jnp.float32) for i in range(CELLS[self.cell].parts)}


def check(model: Recurrent) -> None:
    """Raise BadInput where the fields of a model contradict each other."""
    for field in ("depth", "width", "vocab_size"):
        if getattr(model, field) < 1:
            raise BadInput(f"model.{field}: must be at least 1, got {getattr(model, field)}")


def cost(model: Recurrent, seq_len: int, predicted: int) -> Cost:
    """The cost of a model over examples of `seq_len` tokens, all predicted; the scan over a sequence changes no count."""
    del predicted
    cell, d, tokens = CELLS[model.cell], model.width, float(seq_len)
    top, layer = _top(model), _layer(model)
    products = {
        "input": model.depth * tokens * 2 * d * len(cell.gates) * d,
        "recurrent": model.depth * tokens * 2 * d * len(cell.gates) * d,
        "head": tokens * 2 * d * model.vocab_size,
    }
    return Cost(
        params={
            "embedding": count(top["embed"]),
            **{name: model.depth * count(part) for name, part in layer.items()},
            "head": count(top.get("head", {})),
        },
        embedding=("embedding",),
        forward=products,
        forward_causal=products,
        tokens_per_example=seq_len,
    )


def _top(model: Recurrent) -> Leaves:
    table = Leaf((model.vocab_size, model.width), ("vocab", "embed"), model.width**-0.5)
    return {"embed": {"embedding": table}} | ({} if model.tied else {"head": {"embedding": table}})


def _layer(model: Recurrent) -> Leaves:
    cell, d = CELLS[model.cell], model.width
    kernel = {"kernel": Leaf((len(cell.gates), d, d), ("gates", "embed", "mlp"), (2 * d) ** -0.5)}
    bias = {gate: Leaf((d,), ("mlp",), offset=float(gate == "forget")) for gate in cell.gates}
    if cell.hidden_bias:
        bias["hidden"] = Leaf((d,), ("mlp",))
    return {"input": kernel, "recurrent": kernel, "bias": bias}
