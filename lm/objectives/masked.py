"""Masked language modelling: some tokens of a window are hidden and predicted from both sides (Devlin et al. 2018, 3.1).

Of each window the same number of tokens is chosen, the nearest to the fraction. Of those, 80% are shown as the mask, 10%
as another symbol, 10% as they are; all three are functions of (seed, k), and for the evaluation of the window alone.
"""

import dataclasses
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int, Integer
from ml_collections import ConfigDict

from lm import models, tokens
from lm.encoder import Encoder
from lm.loss import by_document, cross_entropy, z_penalty
from lm.objectives.stream import StreamTask, available
from training.cost import Cost
from training.errors import BadInput
from training.nets import initial
from training.nets.layers import Dropout
from training.permutation import fold, uniforms
from training.task import Arrays
from training.types import Batch, Collections, HostScalars, Loss, Params, Scalars, Variables

__all__ = ["MaskedModel", "MaskedTask", "available", "build", "corrupt", "cost", "network"]

METRICS = ("loss", "loss_sem")
MASKED, SWAPPED = 0.8, 0.1  # of the chosen tokens; the rest are shown as they are


def network(config: ConfigDict) -> Encoder:
    """The model of a resolved config."""
    return models.build(config.model, config.precision, tokens.vocab_size(config.data), config.data.seq_len)  # type: ignore[return-value]


def cost(config: ConfigDict) -> Cost:
    """Parameters and FLOPs; the head is applied to the chosen tokens alone."""
    return models.cost(config.model.name, network(config), config.data.seq_len, chosen_tokens(config))


def build(config: ConfigDict) -> "MaskedTask":
    """The task of a resolved config."""
    return MaskedTask(config)


def chosen_tokens(config: ConfigDict) -> int:
    """Tokens of a window that are predicted.

    Raises:
      BadInput: the fraction is none.
    """
    fraction = config.model.mask_fraction
    if not 0 < fraction < 1:
        raise BadInput(f"model.mask_fraction: must be in (0, 1), got {fraction}")
    return max(1, round(fraction * config.data.seq_len))


def corrupt(
    read: Integer[np.ndarray, "rows length"],
    key: int,
    numbers: Int[np.ndarray, " rows"],
    count: int,
    symbols: int,
    mask: int,
    end: int,
) -> Arrays:
    """What a model is shown of windows ("tokens"), which tokens are predicted ("places", ascending) and what they were
    ("targets"): of a row, a function of (key, its number) alone.

    Args:
      read: the windows.
      key: names the draw.
      numbers: of the rows.
      count: tokens of each to predict; those that end documents are taken last.
      symbols: of the tokenizer, among which a token is swapped.
      mask: the symbol in place of a token.
      end: the symbol that ends documents.
    """
    rank, fate, other = np.split(uniforms(key, np.asarray(numbers, np.uint64), 3 * read.shape[1]), 3, axis=1)
    places = np.sort(np.argpartition(rank + (read == end), count - 1, axis=1)[:, :count], axis=1)
    targets, fate, other = (np.take_along_axis(table, places, axis=1) for table in (read.astype(np.int32), fate, other))
    hidden = np.where(
        fate < MASKED, mask, np.where(fate < MASKED + SWAPPED, (other * symbols).astype(np.int32), targets)
    )
    shown = read.astype(np.int32)
    np.put_along_axis(shown, places, hidden.astype(np.int32), axis=1)
    return {"tokens": shown, "places": places.astype(np.int32), "targets": targets}


@dataclasses.dataclass(frozen=True)
class MaskedModel:
    """The compiled part: windows with hidden tokens, to the nats of what was hidden.

    Attributes:
      network: the model.
      z_loss: whether the total holds a z-loss.
    """

    network: Encoder
    z_loss: bool

    def init(self, key: jax.Array, hyper: HostScalars) -> Variables:
        """Boxed variables; `hyper["init_scale"]` multiplies every initial standard deviation."""
        return initial.variables(self.network, key, hyper["init_scale"])

    def loss(self, params: Params, stats: Collections, batch: Batch, key: jax.Array, hyper: Scalars) -> Loss:
        """Nats summed over hidden tokens, with z-loss on top; see `training.task.Model.loss`."""
        dropout = (key, hyper["dropout"]) if self.network.dropout else None
        nats, normaliser = self._nats(params, batch, dropout)
        total = reported = jnp.sum(nats)
        if self.z_loss:
            total = reported + jnp.sum(z_penalty(normaliser, hyper["z_loss"]))
        return total, ({"loss": reported, "weight": jnp.float32(nats.size)}, stats)

    def score(self, params: Params, stats: Collections, batch: Batch) -> jax.Array:
        """Nats of each hidden token [batch, masked]."""
        del stats
        return self._nats(params, batch, None)[0]

    def _nats(self, params: Params, batch: Batch, dropout: Dropout | None) -> tuple[jax.Array, jax.Array]:
        states, head, bias = self.network.masked(
            params, batch["tokens"], batch["places"], batch.get("segments"), dropout
        )
        return cross_entropy(states, head, batch["targets"], self.network.logit_dtype, bias)


class MaskedTask(StreamTask):
    """One resolved run of masked language modelling."""

    model: MaskedModel

    def __init__(self, config: ConfigDict):
        super().__init__(config)
        self.model = MaskedModel(network(config), config.model.z_loss > 0)
        self._count = chosen_tokens(config)

    def batch(self, k: int, rows: slice) -> Arrays:
        """Rows of global batch k of the training windows; the same window is masked otherwise in every epoch."""
        size, length = self.config.batch_size, self.config.data.seq_len
        numbers = np.arange(k * size, (k + 1) * size)[rows]
        windows = self.train.batch(self.seed, k, size, length, rows)
        return self._arrays(windows[:, :-1], fold(self.seed, 1), numbers)

    def shown(self, numbers: np.ndarray, windows: np.ndarray) -> Arrays:
        """The windows as they are masked in every evaluation of every run."""
        return self._arrays(windows[:, :-1], fold(0, 2), numbers)

    def summarize(self, outputs: Iterable[np.ndarray], final: bool = True) -> dict[str, float | int | str | None]:
        """Loss in nats a hidden token, and its standard error by document."""
        del final
        nats = np.concatenate([np.asarray(part, np.float64) for part in outputs])[: len(self.sample)]
        places = self.shown(self.sample, self.eval.windows(self.sample, self.config.data.seq_len))["places"]
        return {**by_document(nats, self.documents(places)), "eval_set": self.eval.name}

    def _arrays(self, read: np.ndarray, key: int, numbers: np.ndarray) -> Arrays:
        network = self.model.network
        hidden = corrupt(read, key, numbers, self._count, network.vocab_size, network.mask, self.text.end)
        return {**hidden, **self.apart(read)}
