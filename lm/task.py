"""Language modelling as a family: what the engine and the sweeps need of it, and nothing else."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from lm import cost as costs, rules as named_rules, shapes, tokens
from lm.decoder import Decoder, check
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
SHAPE = ("depth", "width", "heads", "kv_heads", "mlp_width")


def defaults() -> ConfigDict:
    """The sections `model`, `data` and `evaluation`."""
    return ConfigDict(
        {
            "model": {
                "name": "decoder",
                "size": placeholder(float),  # target parameters; the shape follows (lm/shapes.py)
                "depth": placeholder(int),
                "width": placeholder(int),
                "heads": placeholder(int),
                "kv_heads": placeholder(int),
                "mlp_width": placeholder(int),
                "norm": "rms",
                "norm_eps": 1e-5,
                "positions": "rotary",
                "rope_theta": 10_000.0,
                "activation": "gelu",
                "tied": True,
                "bias": False,
                "qk_norm": False,
                "parallel": False,
                "dropout": 0.0,
                "z_loss": 0.0,
                "init_scale": 1.0,
                # Speed switches: same values, same tree.
                "scan": False,
                "remat": "none",
                "attention": "auto",
            },
            "data": tokens.defaults(),
            "evaluation": {
                "tokens": placeholder(int),  # of the fixed sample, spread over documents; None: the whole split
                "batch_size": 64,
            },
        }
    )


def shape_for(size: float | None, config: ConfigDict) -> dict[str, int]:
    """The decoder's shape for a target size, or what follows from the keys that are given."""
    model = config.model
    if None not in [model[key] for key in SHAPE]:
        return {}
    return shapes.shape_for(size, model, vocab_size=tokens.vocab_size(config.data), seq_len=config.data.seq_len)


def validate(config: ConfigDict) -> None:
    """Raise BadInput where the sections contradict each other."""
    if config.model.name != "decoder":
        raise BadInput(f"model.name: no language model {config.model.name!r} (known: decoder)")
    for key in ("seq_len",):
        if config.data[key] < 1:
            raise BadInput(f"data.{key}: must be at least 1, got {config.data[key]}")
    if not 0 <= config.model.dropout < 1:
        raise BadInput(f"model.dropout: must be in [0, 1), got {config.model.dropout}")
    check(decoder(config))


def rules(config: ConfigDict, n: int, d: float) -> dict[str, float | int]:
    """Batch, learning rate and warmup by the named rule, for N parameters and D examples."""
    return named_rules.apply(config.rules, n, d * config.data.seq_len, config.data.seq_len, config.batch_size)


def cost(config: ConfigDict) -> Cost:
    """Parameters and FLOPs."""
    return costs.cost(config.model, config.data.seq_len, tokens.vocab_size(config.data))


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


def decoder(config: ConfigDict) -> Decoder:
    """The model of a resolved config."""
    model, precision = config.model, config.precision
    structure = {field.name: model[field.name] for field in dataclasses.fields(Decoder) if field.name in model}
    return Decoder(
        **structure
        | {
            "name": None,
            "vocab_size": tokens.vocab_size(config.data),
            "max_length": config.data.seq_len if model.positions == "learned" else 0,
            "dropout": model.dropout > 0,
            "param_dtype": precision.params,
            "compute_dtype": precision.compute,
            "logit_dtype": precision.logits,
        }
    )


def _documents_apart(data: ConfigDict) -> bool:
    """Whether attention stops at the ends of documents: as configured, else for every tokenizer but bytes."""
    return data.tokenizer != "bytes" if data.segments is None else data.segments


def _unique_windows(split: Windows, seq_len: int) -> int | None:
    return None if split.num_tokens is None else split.num_windows(seq_len)


@dataclasses.dataclass(frozen=True)
class LanguageModel:
    """The compiled part: next-token prediction over windows [batch, length + 1].

    Attributes:
      decoder: the model.
      end: the end-of-document symbol where documents in a window are kept apart, else None.
    """

    decoder: Decoder
    end: int | None
    z_loss: bool

    def init(self, key: jax.Array, hyper: Mapping[str, jax.Array]) -> Any:
        """Boxed variables; `hyper["init_scale"]` multiplies every initial standard deviation."""
        return self.decoder.init(key, hyper["init_scale"], method="parameters")

    def loss(self, params: Any, stats: Any, batch: Any, key: jax.Array, hyper: Mapping[str, jax.Array]) -> Any:
        """Nats summed over tokens, with z-loss on top; see `training.task.Model.loss`."""
        dropout = (key, hyper["dropout"]) if self.decoder.dropout else None
        nats, normaliser = self._nats(params, batch["tokens"], batch.get("segments"), dropout)
        total = reported = jnp.sum(nats)
        if self.z_loss:
            total = reported + jnp.sum(z_penalty(normaliser, hyper["z_loss"]))
        return total, ({"loss": reported, "weight": jnp.float32(nats.size)}, stats)

    def score(self, params: Any, stats: Any, batch: Any) -> jax.Array:
        """Nats of each predicted token [batch, length]."""
        del stats
        return self._nats(params, batch["tokens"], batch.get("segments"), None)[0]

    def _nats(self, params: Any, window: jax.Array, ids: jax.Array | None, dropout: Any) -> tuple[jax.Array, jax.Array]:
        window = window.astype(jnp.int32)
        apply: Any = self.decoder.apply
        states, head = apply({"params": params}, window[:, :-1], ids, dropout, method="hidden")
        return cross_entropy(states, head, window[:, 1:], self.decoder.logit_dtype)


class LanguageTask:
    """One resolved run on text."""

    def __init__(self, config: ConfigDict):
        self._config = config
        self._text = tokens.prepare(config.data)
        self._train, self._eval = self._text.split("train"), self._text.split("eval")
        self._train.need(config.batch_size, config.data.seq_len)
        self._windows = self._eval.eval_sample(config.evaluation.tokens, config.data.seq_len)
        apart = _documents_apart(self._config.data)
        self.model = LanguageModel(decoder(config), self._text.end if apart else None, config.model.z_loss > 0)

    def hyper(self) -> dict[str, float]:
        """Scalars of the model that never recompile it."""
        return {name: float(self._config.model[name]) for name in ("dropout", "init_scale", "z_loss")}

    def batch(self, k: int, rows: slice) -> Arrays:
        """Rows of global batch k: windows of the training split."""
        config = self._config
        # The store's own seed splits and shuffles documents; the run's seed draws the order of batches too, so that
        # runs which differ in it alone measure the noise of everything random in a run.
        seed = (config.seed << 32) + config.data.seed
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
        choice = self.model.decoder.attention_choice
        windows = _unique_windows(self._train, self._config.data.seq_len)
        return {
            **self._text.facts(),
            "seq_len": self._config.data.seq_len,
            "available_tokens": None if windows is None else windows * self._config.data.seq_len,
            "documents_apart": _documents_apart(self._config.data),
            "attention": f"{choice.name} ({choice.reason})",
        }

    def _arrays(self, window: np.ndarray) -> Arrays:
        if self.model.end is None:
            return {"tokens": window}
        return {"tokens": window, "segments": segments(window[:, :-1], self.model.end)[0]}
