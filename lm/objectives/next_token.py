"""Next-token prediction over windows of a stream of text."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from lm import models, tokens
from lm.loss import by_document, cross_entropy, z_penalty
from lm.objectives.stream import StreamTask, available
from training.cost import Cost
from training.errors import BadInput
from training.nets import experts
from training.task import Arrays

__all__ = ["LanguageModel", "LanguageTask", "available", "build", "cost", "network"]


def network(config: ConfigDict) -> models.Causal:
    """The model of a resolved config."""
    if config.model.carry and config.accumulate > 1:
        raise BadInput("model.carry: a state is carried from batch to batch, not from micro-batch to micro-batch")
    return models.build(config.model, config.precision, tokens.vocab_size(config.data), config.data.seq_len)  # type: ignore[return-value]


def cost(config: ConfigDict) -> Cost:
    """Parameters and FLOPs."""
    return models.cost(config.model.name, network(config), config.data.seq_len)


def build(config: ConfigDict) -> "LanguageTask":
    """The task of a resolved config."""
    return LanguageTask(config)


@dataclasses.dataclass(frozen=True)
class LanguageModel:
    """The compiled part: next-token prediction over windows [batch, length + 1].

    Attributes:
      network: the model.
      end: the end-of-document symbol where documents in a window are kept apart, else None.
      z_loss: whether the total holds a z-loss.
      carried: rows of a batch whose recurrent state is carried to the next batch, in the collection "carry"; 0: none.
    """

    network: models.Causal
    end: int | None
    z_loss: bool
    carried: int = 0

    def init(self, key: jax.Array, hyper: Mapping[str, jax.Array]) -> Any:
        """Boxed variables; `hyper["init_scale"]` multiplies every initial standard deviation."""
        variables: Any = self.network.init(key, hyper["init_scale"], method="parameters")
        if not self.carried:
            return variables
        state = {
            name: nn.LogicallyPartitioned(part, ("layers", "batch", None))
            for name, part in self.network.empty_cache(self.carried, 0).items()
        }
        ended = nn.LogicallyPartitioned(jnp.zeros(self.carried, bool), ("batch",))
        return {**variables, "carry": {"state": state, "ended": ended}}

    @property
    def mixture(self) -> bool:
        """Whether the model has experts."""
        return bool(getattr(self.network, "experts", 0))

    def loss(self, params: Any, stats: Any, batch: Any, key: jax.Array, hyper: Mapping[str, jax.Array]) -> Any:
        """Nats summed over tokens; in the total alone z-loss, and what keeps the experts of every layer even (see
        `training.nets.experts.told`, whose means over layers are metrics). As `training.task.Model.loss`."""
        dropout = (key, hyper["dropout"]) if self.network.dropout else None
        nats, normaliser, stats, told = self._nats(params, batch, dropout, stats, training=True)
        total = reported = jnp.sum(nats)
        if self.z_loss:
            total = reported + jnp.sum(z_penalty(normaliser, hyper["z_loss"]))
        if told:
            total += sum(hyper[name] * jnp.sum(told[name]) for name in models.PENALTIES)
        means = {name: jnp.mean(layers) for name, layers in told.items()}
        return total, ({"loss": reported, **means, "weight": jnp.float32(nats.size)}, stats)

    def score(self, params: Any, stats: Any, batch: Any) -> jax.Array:
        """Nats of each predicted token [batch, length]; a recurrent state starts from zero in every window."""
        del stats
        return self._nats(params, batch, None, {}, training=False)[0]

    def _nats(
        self, params: Any, batch: Any, dropout: Any, stats: Any, training: bool
    ) -> tuple[jax.Array, jax.Array, Any, dict[str, jax.Array]]:
        """Nats and log normaliser of each token, what becomes of `stats`, and what layers of experts tell."""
        window, ids, told = batch["tokens"].astype(jnp.int32), batch.get("segments"), {}
        apply: Any = self.network.apply
        if stats:
            kept = ~(stats["carry"]["ended"] | batch["fresh"])[None, :, None]
            state = {name: jnp.where(kept, part, 0) for name, part in stats["carry"]["state"].items()}
            states, head, state = apply({"params": params}, window[:, :-1], ids, dropout, state, method="carried")
            last = window[:, -2]
            stats = {
                "carry": {"state": state, "ended": jnp.zeros_like(last, bool) if self.end is None else last == self.end}
            }
        elif training and self.mixture:
            states, head, told = apply({"params": params}, window[:, :-1], ids, dropout, method="routed")
        else:
            states, head = apply({"params": params}, window[:, :-1], ids, dropout, method="hidden")
        return *cross_entropy(states, head, window[:, 1:], self.network.logit_dtype), stats, told


class LanguageTask(StreamTask):
    """One resolved run of next-token prediction."""

    model: LanguageModel

    def __init__(self, config: ConfigDict):
        super().__init__(config)
        carried = config.batch_size if config.model.carry else 0
        self.model = LanguageModel(network(config), self.end, config.model.z_loss > 0, carried)

    def hyper(self) -> dict[str, float]:
        """Scalars of the model that never recompile it, the weights of its experts' penalties among them."""
        own = models.PENALTIES if self.model.mixture else ()
        return super().hyper() | {name: float(self.config.model[name]) for name in own}

    def facts(self) -> dict[str, Any]:
        """Record entries of the text and of the experts, whose granularity is how many times an expert would fit into an
        MLP of four widths (Krajewski et al. 2024)."""
        network: Any = self.model.network
        if not self.model.mixture:
            return super().facts()
        return super().facts() | {
            **{name: getattr(network, name) for name in ("experts", "experts_per_token", "shared_experts", "capacity")},
            "granularity": 4 * network.width / network.mlp_width,
            "dispatch": "{} ({})".format(*experts.choose(network.dispatch)),
        }

    def batch(self, k: int, rows: slice) -> Arrays:
        """Rows of global batch k: windows of the training split, each where the state is carried the next of its row."""
        size, length = self.config.batch_size, self.config.data.seq_len
        if self.model.carried:
            windows, fresh = self.train.streams(self.seed, k, size, length, rows)
            return self._arrays(windows) | {"fresh": fresh}
        return self._arrays(self.train.batch(self.seed, k, size, length, rows))

    def shown(self, numbers: np.ndarray, windows: np.ndarray) -> Arrays:
        """Whole windows."""
        del numbers
        return self._arrays(windows)

    def summarize(self, outputs: Iterable[np.ndarray], final: bool = True) -> dict[str, float | int | str | None]:
        """Token-weighted loss in nats, its standard error by document, and bits per byte of the raw text."""
        del final
        length = self.config.data.seq_len
        nats = np.concatenate([np.asarray(part, np.float64) for part in outputs])[: len(self.sample)]
        raw_bytes = int(self.text.token_bytes[self.eval.windows(self.sample, length)[:, 1:]].sum())
        return {
            **by_document(nats, self.eval.document_ids(self.sample, length)),
            "bits_per_byte": float(nats.sum() / np.log(2) / raw_bytes) if raw_bytes else None,
            "eval_set": self.eval.name,
        }

    def _arrays(self, windows: np.ndarray) -> Arrays:
        return {"tokens": windows, **self.apart(windows[:, :-1])}
