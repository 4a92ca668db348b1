"""Targets from sources (translation): teacher forcing, label smoothing, BLEU and chrF of what is written greedily."""

import dataclasses
from collections.abc import Iterable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int
from ml_collections import ConfigDict

from lm import models, tokens, translate
from lm.encoder_decoder import EncoderDecoder
from lm.loss import by_document, cross_entropy
from lm.store import Split, TokenStore
from training import extras
from training.cost import Cost
from training.errors import BadInput
from training.nets import initial
from training.nets.layers import Dropout
from training.permutation import batch as order
from training.task import Arrays
from training.types import (
    Batch,
    Collections,
    Evaluation,
    HostScalars,
    Loss,
    Outputs,
    Params,
    Record,
    Scalars,
    Variables,
)

METRICS = ("loss", "loss_sem", "bits_per_byte", "bleu", "chrf")


def network(config: ConfigDict) -> EncoderDecoder:
    """The model of a resolved config."""
    return models.build(config.model, config.precision, tokens.vocab_size(config.data), config.data.seq_len)  # type: ignore[return-value]


def scalars(config: ConfigDict) -> dict[str, float]:
    """Scalars of an encoder-decoder that never recompile it."""
    return {name: float(config.model[name]) for name in ("dropout", "init_scale", "label_smoothing")}


def unsegmented(config: ConfigDict) -> None:
    """Raise BadInput where documents of running text are to be kept apart."""
    if config.data.document_masking:
        raise BadInput("data.document_masking: an encoder-decoder sees all of what it reads")


def cost(config: ConfigDict) -> Cost:
    """Parameters and FLOPs of a pair, each side filled up to `data.seq_len`."""
    length = config.data.seq_len
    return models.cost(config.model.name, network(config), length, length)


def available(config: ConfigDict) -> int:
    """Training pairs that fit the model."""
    return len(fitting(_store(config).split("train"), config.data.seq_len))


def build(config: ConfigDict) -> "PairTask":
    """The task of a resolved config."""
    extras.require("task of pairs: BLEU and chrF", "sacrebleu")
    return PairTask(config)


def fitting(split: Split, length: int) -> Int[np.ndarray, " pairs"]:
    """The pairs of which neither side is longer than `length` tokens, the end of the target counted.

    Raises:
      BadInput: there is none.
    """
    sides = np.diff(split.offsets).reshape(-1, 2)  # with the symbol that ends each
    found = np.flatnonzero((sides[:, 0] - 1 <= length) & (sides[:, 1] <= length))
    if not len(found):
        raise BadInput(f"corpus {split.name}: no pair has two sides of at most {length} tokens (data.seq_len)")
    return found


def _store(config: ConfigDict) -> TokenStore:
    store = tokens.prepare(config.data)
    assert isinstance(store, TokenStore)
    return store


@dataclasses.dataclass(frozen=True)
class PairModel:
    """The compiled part: sources and targets, to nats of the targets.

    Attributes:
      network: the model.
      end: the symbol before a target, and at its end.
      smooth: whether labels are smoothed.
      writes: whether an evaluation also writes a target of its own for every source.
    """

    network: EncoderDecoder
    end: int
    smooth: bool
    writes: bool

    def init(self, key: jax.Array, hyper: HostScalars) -> Variables:
        """Boxed variables; `hyper["init_scale"]` multiplies every initial standard deviation."""
        return initial.variables(self.network, key, hyper["init_scale"])

    def loss(self, params: Params, stats: Collections, batch: Batch, key: jax.Array, hyper: Scalars) -> Loss:
        """Nats summed over target tokens, smoothed in the total alone; see `training.task.Model.loss`."""
        dropout = (key, hyper["dropout"]) if self.network.dropout else None
        nats, evenly, counted = self._nats(params, batch, dropout)
        total = reported = jnp.sum(nats * counted)
        if self.smooth:
            share = hyper["label_smoothing"]
            total = (1 - share) * reported + share * jnp.sum(evenly * counted)
        return total, ({"loss": reported, "weight": jnp.sum(counted)}, stats)

    def score(self, params: Params, stats: Collections, batch: Batch) -> dict[str, jax.Array]:
        """Nats of each target token [batch, length], zero where there is none, and the greedy target where one is wanted."""
        del stats
        nats, _, counted = self._nats(params, batch, None)
        scores = {"nats": nats * counted}
        if self.writes:
            source, new = batch["source"].astype(jnp.int32), batch["predicted"].shape[1]
            scores["text"] = translate.search(self.network, params, source, batch["source_length"], new, self.end)
        return scores

    def _nats(self, params: Params, batch: Batch, dropout: Dropout | None) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Nats of each token, those that an even distribution over the symbols would cost, and which tokens count."""
        source, read, predicted = (batch[name].astype(jnp.int32) for name in ("source", "read", "predicted"))
        seen, counted = None, jnp.ones(predicted.shape, jnp.float32)
        if "source_length" in batch:
            seen = jnp.arange(source.shape[1]) < batch["source_length"][:, None]
            counted = (jnp.arange(predicted.shape[1]) < batch["target_length"][:, None]).astype(jnp.float32)
        states, head = self.network.hidden(params, source, read, seen, dropout)
        kept = self.network.blocks.kept_features
        nats, normaliser = cross_entropy(states, head, predicted, self.network.logit_dtype, kept_features=kept)
        # The mean of all logits is one product with the mean row of the head.
        evenly = (
            normaliser - (states @ jnp.mean(head, axis=0).astype(states.dtype)).astype(jnp.float32)
            if self.smooth
            else nats
        )
        return nats, evenly, counted


class PairTask:
    """One resolved run on pairs of texts."""

    def __init__(self, config: ConfigDict):
        self._config, self._store = config, _store(config)
        self._train, self._eval = (self._store.split(name) for name in ("train", "eval"))
        length = config.data.seq_len
        self._pairs, held = fitting(self._train, length), fitting(self._eval, length)
        if len(self._pairs) < config.batch_size:
            raise BadInput(
                f"corpus {self._train.name}: {len(self._pairs):,} pairs are less than one batch of {config.batch_size}"
            )
        wanted = config.evaluation.tokens
        count = len(held) if wanted is None else min(wanted // (2 * length), len(held))
        if count < 1:
            raise BadInput(f"corpus {self._eval.name}: no pair in a sample of {wanted} tokens")
        self._sample = held[(2 * np.arange(count, dtype=np.int64) + 1) * len(held) // (2 * count)]
        self.model = PairModel(network(config), self._store.end, config.model.label_smoothing > 0, writes=True)

    def hyper(self) -> dict[str, float]:
        """Scalars of the model that never recompile it."""
        return scalars(self._config)

    def batch(self, k: int, rows: slice) -> Arrays:
        """Rows of global batch k of the training pairs."""
        seed = (self._config.seed << 32) + self._config.data.seed
        return self._arrays(self._train, self._pairs[order(seed, k, self._config.batch_size, len(self._pairs), rows)])

    def eval_batches(self, final: bool = True) -> Iterator[Arrays]:
        """The pairs of the one fixed sample in order; the last batch is filled up with the first pair."""
        del final
        size = self._config.evaluation.batch_size
        for start in range(0, len(self._sample), size):
            part = self._sample[start : start + size]
            yield self._arrays(self._eval, np.concatenate([part, np.repeat(self._sample[:1], size - len(part))]))

    def summarize(self, outputs: Iterable[Outputs], final: bool = True) -> dict[str, float | int | str | None]:
        """Loss in nats a target token, bits per byte of the targets, BLEU and chrF of the greedy targets."""
        return self._summary(*self._scored(outputs))

    def details(
        self, outputs: Iterable[Outputs], final: bool = True
    ) -> tuple[Evaluation, dict[str, list[str] | np.ndarray]]:
        """All that is said of an evaluation, and its sources, targets and translations as columns."""
        del final
        nats, written, references = self._scored(outputs)
        sources = [self._store.tokenizer.decode(text) for text in self._eval.texts(self._sample, 0)]
        columns = {"source": sources, "target": references, "written": written, "nats": nats.sum(axis=1)}
        return self._summary(nats, written, references), columns

    def facts(self) -> Record:
        """Record entries of the corpus, the tokenizer and the attention chosen; `pairs_left_out` are too long."""
        choice, length = self.model.network.attention_choice, self._config.data.seq_len
        return {
            **self._store.facts(),
            "seq_len": 2 * length,
            "available_tokens": 2 * length * len(self._pairs),
            "pairs_left_out": self._train.num_documents - len(self._pairs),
            "attention": f"{choice.name} ({choice.reason})",
        }

    def keep(self, folder: Path) -> None:
        """Write the tokenizer."""
        tokens.keep(self._store, folder)

    def _arrays(self, split: Split, pairs: np.ndarray) -> Arrays:
        end, length = self._store.end, self._config.data.seq_len
        made: Arrays = {"source": np.full((len(pairs), length), end, np.int32)}
        made["read"], made["predicted"] = made["source"].copy(), made["source"].copy()
        sources, targets = split.texts(pairs, 0), split.texts(pairs, 1)
        for row, (source, target) in enumerate(zip(sources, targets, strict=True)):
            made["source"][row, : len(source)] = source
            made["read"][row, 1 : 1 + len(target)] = target
            made["predicted"][row, : len(target)] = target
        made["source_length"] = np.array([len(source) for source in sources], np.int32)
        made["target_length"] = np.array([len(target) + 1 for target in targets], np.int32)
        return made

    def _scored(self, outputs: Iterable[Outputs]) -> tuple[np.ndarray, list[str], list[str]]:
        """Nats of the sample, and the texts that were written and those that were wanted."""
        parts, count, end = list(outputs), len(self._sample), self._store.end
        nats = np.concatenate([np.asarray(part["nats"], np.float64) for part in parts])[:count]
        written = [row[: np.argmax(np.append(row, end) == end)] for part in parts for row in np.asarray(part["text"])]
        decode = self._store.tokenizer.decode
        return (
            nats,
            [decode(row) for row in written[:count]],
            [decode(row) for row in self._eval.texts(self._sample, 1)],
        )

    def _summary(self, nats: np.ndarray, written: list[str], references: list[str]) -> Evaluation:
        import sacrebleu

        lengths = np.array([len(text) + 1 for text in self._eval.texts(self._sample, 1)])
        counted = np.arange(nats.shape[1]) < lengths[:, None]
        pair = np.broadcast_to(np.arange(len(nats))[:, None], nats.shape)
        raw_bytes = sum(len(text.encode()) for text in references)
        return {
            **by_document(nats[counted], pair[counted]),
            "bits_per_byte": float(nats.sum() / np.log(2) / raw_bytes) if raw_bytes else None,
            "bleu": sacrebleu.corpus_bleu(written, [references]).score,
            "chrf": sacrebleu.corpus_chrf(written, [references]).score,
            "eval_set": self._eval.name,
        }
