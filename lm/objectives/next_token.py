"""Next-token prediction over windows of a stream of text."""

import dataclasses
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from lm import models, teachers, tokens
from lm.decoder import Decoder
from lm.loss import by_document, cross_entropy, divergence, z_penalty
from lm.objectives.stream import StreamTask, available
from lm.recurrent import Recurrent
from training import parametrization
from training.cost import Cost
from training.errors import BadInput
from training.nets import initial, probes, qk_clip
from training.nets.ffn import moe
from training.nets.layers import Dropout
from training.nets.mixers import MIXERS
from training.task import Arrays
from training.types import Batch, Collections, Evaluation, HostScalars, Loss, Params, Record, Scalars, Variables

__all__ = ["LanguageModel", "LanguageTask", "available", "build", "cost", "network"]

PROBES = (probes.SQUARE, probes.MAX_LOGIT)
METRICS = ("loss", "loss_sem", "bits_per_byte")


def network(config: ConfigDict) -> models.Causal:
    """The model of a resolved config."""
    if config.model.stateful and config.gradient_accumulation_steps > 1:
        raise BadInput("model.stateful: a state is carried from batch to batch, not from micro-batch to micro-batch")
    if config.model.stateful and config.get("replicas", {}).get("count", 1) > 1:
        raise BadInput("model.stateful: the state is that of a whole batch, which replicas would share out")
    multipliers = parametrization.forward(parametrization.of(config))
    symbols, length = tokens.vocab_size(config.data), config.data.seq_len
    network = models.build(config.model, config.precision, symbols, length, **multipliers)
    if config.get("optimizer", {}).get("qk_clip"):
        if not isinstance(network, Decoder):
            raise BadInput(f"optimizer.qk_clip: {config.model.name} has no attention logits; optimizer.qk_clip=0")
        qk_clip.check(network.blocks)
    return network  # type: ignore[return-value]


def cost(config: ConfigDict) -> Cost:
    """Parameters and FLOPs, those of a teacher's forward pass among them."""
    found = models.cost(config.model.name, network(config), config.data.seq_len)
    if not config.teacher.run:
        return found
    theirs = teachers.config_of(config)
    taught = models.cost(theirs.model.name, teachers.network(config), config.data.seq_len)
    return dataclasses.replace(found, teacher=taught.flops_forward)


def build(config: ConfigDict) -> "LanguageTask":
    """The task of a resolved config."""
    return LanguageTask(config)


class Predicted(NamedTuple):
    """Nats of each token and logs of the normalisers; states and head, whose product are the logits; the other collections
    after this batch; metrics of layers: of the routing of experts, and probes."""

    nats: jax.Array
    normaliser: jax.Array
    states: jax.Array
    head: jax.Array
    stats: Collections
    layers: dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class LanguageModel:
    """The compiled part: next-token prediction over windows [batch, length + 1].

    Attributes:
      network: the model.
      end: the end-of-document symbol where documents in a window are kept apart, else None.
      z_loss: whether the total holds a z-loss.
      carried: rows of a batch whose recurrent state is carried to the next batch, in the collection "carry"; 0: none.
      teacher: a model whose predictions are learnt too, its parameters in the collection "teacher"; None: there is none.
    """

    network: models.Causal
    end: int | None
    z_loss: bool
    carried: int = 0
    teacher: models.Causal | None = None

    def init(self, key: jax.Array, hyper: HostScalars) -> Variables:
        """Boxed variables; `hyper["init_scale"]` multiplies every initial standard deviation."""
        variables = initial.variables(self.network, key, hyper["init_scale"])
        if self.teacher:  # in place of what is loaded
            theirs = initial.abstract(self.teacher)
            variables = {**variables, "teacher": jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), theirs["params"])}
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
        return isinstance(self.network, Decoder) and self.network.blocks.moe is not None

    @property
    def _kept_features(self) -> int:
        return self.network.blocks.kept_features if isinstance(self.network, Decoder) else 0

    def loss(self, params: Params, stats: Collections, batch: Batch, key: jax.Array, hyper: Scalars) -> Loss:
        """Nats summed over tokens; in the total alone a teacher's part, z-loss, and what keeps the experts of every layer
        even (see `training.nets.ffn.moe.routing_metrics`, whose means over layers are metrics); as
        `training.task.Model.loss`."""
        dropout = (key, hyper["dropout"]) if self.network.dropout else None
        stats = dict(stats)
        taught = stats.pop("teacher", None)
        predicted = self._predict(params, batch, dropout, stats, training=True, watched=self._probes(hyper))
        total = reported = jnp.sum(predicted.nats)
        sums = {"loss": reported, "weight": jnp.float32(predicted.nats.size)}
        if self.teacher:
            read, ids = batch["tokens"].astype(jnp.int32)[:, :-1], batch.get("segments")
            their_states, their_head = self.teacher.hidden(taught, read, ids)
            dtype, temperature = self.network.logit_dtype, hyper["temperature"]
            both = (predicted.states, predicted.head, their_states, their_head)
            apart = jnp.sum(divergence(*both, temperature, dtype, self._kept_features))
            total = (1 - hyper["teacher"]) * reported + hyper["teacher"] * apart
            sums["distill_kl"] = apart
        if self.z_loss:
            total += jnp.sum(z_penalty(predicted.normaliser, hyper["z_loss"]))
        reported = {name: predicted.layers[name] for name in PROBES if name in predicted.layers}
        routing = {name: layers for name, layers in predicted.layers.items() if name not in reported}
        if routing:
            total += sum(hyper[key] * jnp.sum(routing[name]) for name, key in models.PENALTIES.items())
        sums |= {f"moe/{name}": jnp.mean(layers) for name, layers in routing.items()}
        if probes.SQUARE in reported:
            reported[probes.SQUARE] = reported[probes.SQUARE] * sums["weight"]
        sums |= reported
        return total, (sums, predicted.stats)

    def _probes(self, hyper: Scalars) -> dict[str, jax.Array | None]:
        """What blocks report, and when: largest logits in every step under QK-clip, all where statistics are taken."""
        if not isinstance(self.network, Decoder):
            return {}
        flags: dict[str, jax.Array | None] = {}
        if "statistics" in hyper:
            flags = dict.fromkeys(PROBES, hyper["statistics"] > 0)
            if not any(MIXERS[name].logits for name in self.network.blocks.pattern):
                del flags[probes.MAX_LOGIT]
        return flags | ({probes.MAX_LOGIT: None} if "qk_clip" in hyper else {})

    def qk_clipped(self, params: Params, max_logits: jax.Array, tau: jax.Array) -> Params:
        """The parameters after QK-clip, see `training.nets.qk_clip`."""
        return qk_clip.clipped(cast(Decoder, self.network).blocks, params, max_logits, tau)

    def score(self, params: Params, stats: Collections, batch: Batch) -> jax.Array:
        """Nats of each predicted token [batch, length]; a recurrent state starts from zero in every window."""
        del stats
        return self._predict(params, batch, None, {}, training=False).nats

    def _predict(
        self,
        params: Params,
        batch: Batch,
        dropout: Dropout | None,
        stats: Collections,
        training: bool,
        watched: Mapping[str, jax.Array | None] = MappingProxyType({}),
    ) -> Predicted:
        window, ids, by_layer = batch["tokens"].astype(jnp.int32), batch.get("segments"), {}
        if stats:
            recurrent = cast(Recurrent, self.network)
            kept = ~(stats["carry"]["ended"] | batch["fresh"])[None, :, None]
            state = {name: jnp.where(kept, part, 0) for name, part in stats["carry"]["state"].items()}
            states, head, state = recurrent.carried(params, window[:, :-1], ids, dropout, state)
            last = window[:, -2]
            stats = {
                "carry": {"state": state, "ended": jnp.zeros_like(last, bool) if self.end is None else last == self.end}
            }
        elif watched or (training and self.mixture):
            network = cast(Decoder, self.network)
            states, head, by_layer = network.routed(params, window[:, :-1], ids, dropout, watched)
        else:
            states, head = self.network.hidden(params, window[:, :-1], ids, dropout)
        dtype, kept = self.network.logit_dtype, self._kept_features
        nats, normaliser = cross_entropy(states, head, window[:, 1:], dtype, kept_features=kept)
        return Predicted(nats, normaliser, states, head, stats, by_layer)


class LanguageTask(StreamTask):
    """One resolved run of next-token prediction."""

    model: LanguageModel

    def __init__(self, config: ConfigDict):
        super().__init__(config)
        carried = config.batch_size if config.model.stateful else 0
        teacher = teachers.network(config) if config.teacher.run else None
        self.model = LanguageModel(network(config), self.end, config.model.z_loss > 0, carried, teacher)

    def hyper(self) -> dict[str, float]:
        """Scalars of the model that never recompile it, those of its experts' penalties and of its teacher among them."""
        own, section = models.PENALTIES.values() if self.model.mixture else (), self.config.teacher
        taught = {"teacher": section.weight, "temperature": section.temperature} if section.run else {}
        return super().hyper() | {name: float(self.config.model[name]) for name in own} | taught

    def facts(self) -> Record:
        """Record entries of the text, of a teacher, and of the experts, whose granularity is how many times an expert would
        fit into an MLP of four widths (Krajewski et al. 2024)."""
        facts = super().facts() | (teachers.facts(self.config) if self.config.teacher.run else {})
        if not self.model.mixture:
            return facts
        blocks = cast(Decoder, self.model.network).blocks
        mixture = moe.of(blocks)
        names = ("experts", "experts_per_token", "shared_experts", "capacity_factor")
        return facts | {
            **{name: getattr(mixture, name) for name in names},
            "granularity": 4 * blocks.width / blocks.mlp_width,
            "dispatch": "{} ({})".format(*moe.choose(mixture.dispatch)),
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
        """Token-weighted loss in nats, its standard error by document, bits per byte of the raw text, and the loss over the
        second half of the windows, which is what the prefix task (`lm.objectives.prefix`) predicts."""
        del final
        return self._summary(self._scored(outputs))

    def details(self, outputs: Iterable[np.ndarray], final: bool = True) -> tuple[Evaluation, dict[str, np.ndarray]]:
        """All that is said of an evaluation, and each token of its sample as columns: its window, its place there, nats."""
        del final
        nats = self._scored(outputs)
        window, position = np.indices(nats.shape)
        columns = {"window": window, "position": position, "token": self._windows()[:, 1:], "nats": nats}
        return self._summary(nats), {name: column.ravel() for name, column in columns.items()}

    def _windows(self) -> np.ndarray:
        return self.eval.windows(self.sample, self.config.data.seq_len)

    def _scored(self, outputs: Iterable[np.ndarray]) -> np.ndarray:
        return np.concatenate([np.asarray(part, np.float64) for part in outputs])[: len(self.sample)]

    def _summary(self, nats: np.ndarray) -> Evaluation:
        length = self.config.data.seq_len
        raw, ids = (
            self.text.token_bytes[self._windows()[:, 1:]].sum(axis=1),
            self.eval.document_ids(self.sample, length),
        )
        domains = self.eval.by_domain(self.sample, length)
        parts = domains.values() or [(slice(None), self.eval.byte_ratio)]
        raw_bytes = sum(int(raw[rows].sum()) * ratio for rows, ratio in parts)
        of_domains: Evaluation = {}
        for name, (rows, ratio) in domains.items():
            of_domain = by_document(nats[rows], ids[rows])
            of_domains |= {f"{key}/{name}": of_domain[key] for key in ("loss", "loss_sem")}
            in_bytes = int(raw[rows].sum()) * ratio
            of_domains[f"bits_per_byte/{name}"] = float(nats[rows].sum() / np.log(2) / in_bytes) if in_bytes else None
        return {
            **by_document(nats, ids),
            **of_domains,
            "loss_second_half": float(nats[:, length // 2 - 1 : -1].mean()) if length > 1 else None,
            "bits_per_byte": float(nats.sum() / np.log(2) / raw_bytes) if raw_bytes else None,
            "eval_set": self.eval.name,
        }

    def _arrays(self, windows: np.ndarray) -> Arrays:
        return {"tokens": windows, **self.apart(windows[:, :-1])}
