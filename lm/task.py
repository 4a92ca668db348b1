"""Language modelling as a family: what the engine and the sweeps need of it, and nothing else."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from lm import models, rules as named_rules, tokens
from lm.objective import cross_entropy, z_penalty
from lm.windows import Windows, segments
from training.cost import Cost
from training.errors import BadInput
from training.task import Arrays

# Keys that change how fast or where a run goes, never what it computes.
INDIFFERENT = (
    *("model.size", "model.scan", "model.remat", "model.attention"),
    *("data.cache_dir", "data.corpus_args.data_dir", "data.shard_tokens", "evaluation.batch_size"),
)


def defaults() -> ConfigDict:
    """The sections `model`, `data` and `evaluation`."""
    return ConfigDict(
        {
            "model": models.defaults(),
            "data": tokens.defaults(),
            "evaluation": {
                "tokens": placeholder(int),  # of the fixed sample, spread over documents; None: the whole split
                "batch_size": 64,
            },
        }
    )


def shape_for(size: float | None, config: ConfigDict) -> dict[str, Any]:
    """The options of the named model: given, of the target size, or its defaults."""
    del size  # models.options reads it beside the other keys
    return models.options(config.model, tokens.vocab_size(config.data), config.data.seq_len)


def validate(config: ConfigDict) -> None:
    """Raise BadInput where the sections contradict each other."""
    if config.data.seq_len < 1:
        raise BadInput(f"data.seq_len: must be at least 1, got {config.data.seq_len}")
    if not 0 <= config.model.dropout < 1:
        raise BadInput(f"model.dropout: must be in [0, 1), got {config.model.dropout}")
    if config.model.carry and config.accumulate > 1:
        raise BadInput("model.carry: a state is carried from batch to batch, not from micro-batch to micro-batch")
    network(config)


def rules(config: ConfigDict, n: int, d: float) -> dict[str, float | int]:
    """Batch, learning rate and warmup by the named rule, for N parameters and D examples."""
    return named_rules.apply(config.rules, n, d * config.data.seq_len, config.data.seq_len, config.batch_size)


def cost(config: ConfigDict) -> Cost:
    """Parameters and FLOPs."""
    return models.cost(config.model.name, network(config), config.data.seq_len)


def available(config: ConfigDict) -> int | None:
    """Windows in the training split, None for a synthetic language; prepares the corpus where it is not there."""
    return _unique_windows(tokens.prepare(config.data).split("train"), config.data.seq_len)


def prepare(config: ConfigDict, verify: bool) -> dict[str, Any]:
    """Build the corpus's tokens ahead of time; returns what they hold."""
    text = tokens.prepare(config.data, verify=verify)
    splits = {name: text.split(name) for name in ("train", "eval")}
    return {
        "name": f"{config.data.corpus}, {config.data.tokenizer}",
        "path": str(text.path) if isinstance(text, tokens.TokenStore) else None,
        **{key: value for key, value in text.facts().items() if not key.endswith("_tokens")},
        "splits": {
            name: {"documents": split.num_documents, "tokens": split.num_tokens, "bytes": split.num_bytes}
            for name, split in splits.items()
        },
    }


def build(config: ConfigDict) -> "LanguageTask":
    """The task of a resolved config; prepares its corpus where that has not been done."""
    return LanguageTask(config)


def network(config: ConfigDict) -> models.Model:
    """The model of a resolved config."""
    return models.build(config.model, config.precision, tokens.vocab_size(config.data), config.data.seq_len)


def _documents_apart(data: ConfigDict) -> bool:
    """Whether attention stops at the ends of documents: as configured, else for every tokenizer but bytes."""
    return data.tokenizer != "bytes" if data.segments is None else data.segments


def _unique_windows(split: Windows, seq_len: int) -> int | None:
    return None if split.num_tokens is None else split.num_windows(seq_len)


@dataclasses.dataclass(frozen=True)
class LanguageModel:
    """The compiled part: next-token prediction over windows [batch, length + 1].

    Attributes:
      network: the model.
      end: the end-of-document symbol where documents in a window are kept apart, else None.
      z_loss: whether the total holds a z-loss.
      carried: rows of a batch whose recurrent state is carried to the next batch, in the collection "carry"; 0: none.
    """

    network: models.Model
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

    def loss(self, params: Any, stats: Any, batch: Any, key: jax.Array, hyper: Mapping[str, jax.Array]) -> Any:
        """Nats summed over tokens, with z-loss on top; see `training.task.Model.loss`."""
        dropout = (key, hyper["dropout"]) if self.network.dropout else None
        nats, normaliser, stats = self._nats(params, batch, dropout, stats)
        total = reported = jnp.sum(nats)
        if self.z_loss:
            total = reported + jnp.sum(z_penalty(normaliser, hyper["z_loss"]))
        return total, ({"loss": reported, "weight": jnp.float32(nats.size)}, stats)

    def score(self, params: Any, stats: Any, batch: Any) -> jax.Array:
        """Nats of each predicted token [batch, length]; a recurrent state starts from zero in every window."""
        del stats
        return self._nats(params, batch, None, {})[0]

    def _nats(self, params: Any, batch: Any, dropout: Any, stats: Any) -> tuple[jax.Array, jax.Array, Any]:
        window, ids = batch["tokens"].astype(jnp.int32), batch.get("segments")
        apply: Any = self.network.apply
        if stats:
            kept = ~(stats["carry"]["ended"] | batch["fresh"])[None, :, None]
            state = {name: jnp.where(kept, part, 0) for name, part in stats["carry"]["state"].items()}
            states, head, state = apply({"params": params}, window[:, :-1], ids, dropout, state, method="carried")
            last = window[:, -2]
            stats = {
                "carry": {"state": state, "ended": jnp.zeros_like(last, bool) if self.end is None else last == self.end}
            }
        else:
            states, head = apply({"params": params}, window[:, :-1], ids, dropout, method="hidden")
        return *cross_entropy(states, head, window[:, 1:], self.network.logit_dtype), stats


class LanguageTask:
    """One resolved run on text."""

    def __init__(self, config: ConfigDict):
        self._config = config
        self._text = tokens.prepare(config.data)
        self._train, self._eval = self._text.split("train"), self._text.split("eval")
        self._train.need(config.batch_size, config.data.seq_len)
        self._windows = self._eval.eval_sample(config.evaluation.tokens, config.data.seq_len)
        apart = _documents_apart(self._config.data)
        end, carried = self._text.end if apart else None, config.batch_size if config.model.carry else 0
        self.model = LanguageModel(network(config), end, config.model.z_loss > 0, carried)

    def hyper(self) -> dict[str, float]:
        """Scalars of the model that never recompile it."""
        return {name: float(self._config.model[name]) for name in ("dropout", "init_scale", "z_loss")}

    def batch(self, k: int, rows: slice) -> Arrays:
        """Rows of global batch k: windows of the training split, each where the state is carried the next of its row."""
        config = self._config
        # The store's own seed splits and shuffles documents; the run's seed draws the order of batches too, so that
        # runs which differ in it alone measure the noise of everything random in a run.
        seed = (config.seed << 32) + config.data.seed
        if self.model.carried:
            windows, fresh = self._train.streams(seed, k, config.batch_size, config.data.seq_len, rows)
            return self._arrays(windows) | {"fresh": fresh}
        return self._arrays(self._train.batch(seed, k, config.batch_size, config.data.seq_len, rows))

    def eval_batches(self, final: bool = True) -> Iterator[Arrays]:
        """The windows of the one fixed sample in order; the last batch is filled up with the first window."""
        del final
        size, length = self._config.evaluation.batch_size, self._config.data.seq_len
        for start in range(0, len(self._windows), size):
            part = self._windows[start : start + size]
            padded = np.concatenate([part, np.repeat(self._windows[:1], size - len(part))])
            yield self._arrays(self._eval.windows(padded, length))

    def summarize(self, outputs: Iterable[np.ndarray], final: bool = True) -> dict[str, float | int | str | None]:
        """Token-weighted loss in nats, its standard error by document, and bits per byte of the raw text.

        Tokens of one document are correlated, so the error is that of a ratio of sums over documents.
        """
        del final
        length = self._config.data.seq_len
        nats = np.concatenate([np.asarray(part, np.float64) for part in outputs])[: len(self._windows)]
        ids = self._eval.document_ids(self._windows, length).ravel()
        _, document = np.unique(ids, return_inverse=True)
        sums, counts = np.bincount(document, nats.ravel()), np.bincount(document)
        mean, m = sums.sum() / counts.sum(), len(sums)
        spread = np.square(sums - mean * counts).sum() * m / max(m - 1, 1)
        raw_bytes = int(self._text.token_bytes[self._eval.windows(self._windows, length)[:, 1:]].sum())
        return {
            "loss": float(mean),
            "loss_sem": float(np.sqrt(spread) / counts.sum()) if m > 1 else None,
            "bits_per_byte": float(nats.sum() / np.log(2) / raw_bytes) if raw_bytes else None,
            "eval_set": self._eval.name,
            "eval_tokens": int(counts.sum()),
            "eval_documents": m,
        }

    def facts(self) -> dict[str, Any]:
        """Record entries of the corpus, the tokenizer and the attention chosen."""
        choice = getattr(self.model.network, "attention_choice", None)
        windows = _unique_windows(self._train, self._config.data.seq_len)
        return {
            **self._text.facts(),
            "seq_len": self._config.data.seq_len,
            "available_tokens": None if windows is None else windows * self._config.data.seq_len,
            "documents_apart": _documents_apart(self._config.data),
            **({} if choice is None else {"attention": f"{choice.name} ({choice.reason})"}),
        }

    def _arrays(self, window: np.ndarray) -> Arrays:
        if self.model.end is None:
            return {"tokens": window}
        return {"tokens": window, "segments": segments(window[:, :-1], self.model.end)[0]}
