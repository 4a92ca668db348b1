"""Classification of whole texts: pairs of a text and a label, the pad and the label unseen by the text."""

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int
from ml_collections import ConfigDict

from lm import models, tokens
from lm.encoder import Encoder
from lm.store import Split, TokenStore
from training import classification
from training.cost import Cost
from training.errors import BadInput
from training.nets import initial
from training.nets.layers import Dropout
from training.permutation import batch as order
from training.task import Arrays
from training.types import Batch, Collections, HostScalars, Loss, Params, Record, Scalars, Variables

METRICS = classification.METRICS
PAD = -1  # the segment of what fills a text up
MOST = 10_000  # classes


@dataclasses.dataclass(frozen=True)
class Labelled:
    """The texts of a store and their labels, which are the distinct second parts of its training pairs, sorted.

    Attributes:
      store: of pairs.
      classes: the names of the labels.
      labels: of the texts, by split.
    """

    store: TokenStore
    classes: tuple[str, ...]
    labels: Mapping[str, Int[np.ndarray, " texts"]]


def labelled(config: ConfigDict) -> Labelled:
    """The labelled texts of a config's corpus, prepared where they are not there yet.

    Raises:
      BadInput: too many different labels to be classes, or one in evaluation that no training text has.
    """
    store = tokens.prepare(config.data)
    assert isinstance(store, TokenStore)
    return _read(store.path, store.manifest["data_hash"], config.data.tokenizer)


@functools.lru_cache(maxsize=4)
def _read(path: Path, data_hash: str, tokenizer: str) -> Labelled:
    """Read once a process: every point of a plan asks for the number of classes."""
    del data_hash, tokenizer  # a store built anew is another key
    store = tokens.open_store(path)
    corpus, found = store.manifest["corpus"], {}
    for split in ("train", "eval"):
        part = store.split(split)
        texts = part.texts(np.arange(part.num_documents), 1)
        found[split] = [text.tobytes() for text in texts]
    distinct = list(set(found["train"]))
    if len(distinct) > MOST:
        raise BadInput(f"corpus {corpus}: {len(distinct):,} different labels are no classes (at most {MOST:,})")

    def name(raw: bytes) -> str:
        return store.tokenizer.decode(np.frombuffer(raw, store.split("train").shards[0].dtype))

    distinct = sorted(distinct, key=name)
    number = {raw: i for i, raw in enumerate(distinct)}
    for raw in found["eval"]:
        if raw not in number:
            raise BadInput(f"corpus {corpus}: the label {name(raw)!r} of the evaluation split is on no training text")
    labels = {split: np.array([number[raw] for raw in raws], np.int32) for split, raws in found.items()}
    return Labelled(store, tuple(map(name, distinct)), labels)


def network(config: ConfigDict) -> Encoder:
    """The model of a resolved config."""
    classes, symbols = len(labelled(config).classes), tokens.vocab_size(config.data)
    return models.build(config.model, config.precision, symbols, config.data.seq_len, classes=classes)  # type: ignore[return-value]


def cost(config: ConfigDict) -> Cost:
    """Parameters and FLOPs of a text, filled up to `data.seq_len`."""
    return models.cost(config.model.name, network(config), config.data.seq_len)


def available(config: ConfigDict) -> int:
    """Training texts."""
    return len(labelled(config).labels["train"])


def build(config: ConfigDict) -> "LabelTask":
    """The task of a resolved config."""
    return LabelTask(config)


@dataclasses.dataclass(frozen=True)
class LabelModel:
    """The compiled part: texts to logits of their classes."""

    network: Encoder

    def init(self, key: jax.Array, hyper: HostScalars) -> Variables:
        """Boxed variables; `hyper["init_scale"]` multiplies every initial standard deviation."""
        return initial.variables(self.network, key, hyper["init_scale"])

    def loss(self, params: Params, stats: Collections, batch: Batch, key: jax.Array, hyper: Scalars) -> Loss:
        """Nats summed over texts, and how many were right; see `training.task.Model.loss`."""
        dropout = (key, hyper["dropout"]) if self.network.dropout else None
        logits = self._logits(params, batch, dropout)
        total = -jnp.sum(jnp.take_along_axis(jax.nn.log_softmax(logits), batch["label"][:, None], axis=1))
        right = jnp.sum(jnp.argmax(logits, axis=1) == batch["label"])
        sums = {"loss": total, "accuracy": right.astype(jnp.float32), "weight": jnp.float32(len(logits))}
        return total, (sums, stats)

    def score(self, params: Params, stats: Collections, batch: Batch) -> jax.Array:
        """Logits [batch, classes]."""
        del stats
        return self._logits(params, batch, None)

    def _logits(self, params: Params, batch: Batch, dropout: Dropout | None) -> jax.Array:
        logits: Any = self.network.classify(params, batch["tokens"], batch["segments"], dropout)
        return logits.astype(jnp.float32)


class LabelTask:
    """One resolved run on labelled texts."""

    def __init__(self, config: ConfigDict):
        self._config, self._data = config, labelled(config)
        self._train, self._eval = (self._data.store.split(name) for name in ("train", "eval"))
        if self._train.num_documents < config.batch_size:
            raise BadInput(
                f"corpus {self._train.name}: {self._train.num_documents:,} texts are less than one batch of "
                f"{config.batch_size}"
            )
        self.model = LabelModel(network(config))
        n, wanted = self._eval.num_documents, config.evaluation.tokens
        count = n if wanted is None else min(wanted // config.data.seq_len, n)
        if count < 1:
            raise BadInput(f"corpus {self._eval.name}: no text in a sample of {wanted} tokens")
        self._sample = (2 * np.arange(count, dtype=np.int64) + 1) * n // (2 * count)

    def hyper(self) -> dict[str, float]:
        """Scalars of the model that never recompile it."""
        return {name: float(self._config.model[name]) for name in ("dropout", "init_scale")}

    def batch(self, k: int, rows: slice) -> Arrays:
        """Rows of global batch k of the training texts."""
        seed = (self._config.seed << 32) + self._config.data.seed
        index = order(seed, k, self._config.batch_size, self._train.num_documents, rows)
        return self._arrays(self._train, index) | {"label": self._data.labels["train"][index]}

    def eval_batches(self, final: bool = True) -> Iterator[Arrays]:
        """The texts of the one fixed sample in order; the last batch is filled up with the first text."""
        del final
        size = self._config.evaluation.batch_size
        for start in range(0, len(self._sample), size):
            part = self._sample[start : start + size]
            yield self._arrays(self._eval, np.concatenate([part, np.repeat(self._sample[:1], size - len(part))]))

    def summarize(self, outputs: Iterable[np.ndarray], final: bool = True) -> dict[str, float | int | str | None]:
        """Record entries of an evaluation, as in `classification.summary`."""
        del final
        return {
            **classification.summary(*self._scored(outputs)),
            "eval_set": self._eval.name,
            "eval_examples": len(self._sample),
        }

    def details(self, outputs: Iterable[np.ndarray], final: bool = True) -> tuple[Record, dict[str, np.ndarray]]:
        """All that is said of an evaluation, and its predictions as columns with a row a text."""
        del final
        logits, labels = self._scored(outputs)
        names = np.array(self._data.classes)
        columns = {"index": self._sample, "label": names[labels], "prediction": names[logits.argmax(axis=1)]}
        columns["p"] = np.exp(classification.log_probabilities(logits).max(axis=1))
        return {"eval_set": self._eval.name, **classification.details(logits, labels, self._data.classes)}, columns

    def facts(self) -> Record:
        """Record entries of the corpus, the tokenizer and the attention chosen."""
        choice = self.model.network.attention_choice
        return {
            **self._data.store.facts(),
            "seq_len": self._config.data.seq_len,
            "available_tokens": self._train.num_documents * self._config.data.seq_len,
            "num_classes": len(self._data.classes),
            "attention": f"{choice.name} ({choice.reason})",
        }

    def keep(self, folder: Path) -> None:
        """Write the tokenizer."""
        tokens.keep(self._data.store, folder)

    def _arrays(self, split: Split, index: np.ndarray) -> Arrays:
        """Texts behind the symbol that asks for their class, cut at the model's length or filled up to it."""
        length = self._config.data.seq_len
        shown = np.full((len(index), length), self._data.store.end, np.int32)
        segments = np.full((len(index), length), PAD, np.int32)
        shown[:, 0], segments[:, 0] = self.model.network.question, 0
        for row, mark, text in zip(shown, segments, split.texts(index), strict=True):
            kept = min(len(text), length - 1)
            row[1 : 1 + kept], mark[1 : 1 + kept] = text[:kept], 0
        return {"tokens": shown, "segments": segments}

    def _scored(self, outputs: Iterable[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        logits = np.concatenate([np.asarray(part) for part in outputs])[: len(self._sample)]
        return logits, self._data.labels["eval"][self._sample]
