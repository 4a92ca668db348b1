"""A language whose entropy is known: a Markov chain over symbols, endless, to test the whole path against the truth."""

import dataclasses
import functools
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt
from ml_collections import ConfigDict

from lm.token_windows import Windows
from lm.tokenizer import token_dtype
from training.cache import digest
from training.errors import BadInput
from training.permutation import fold, uniforms
from training.types import Record

VERSION = 1
CONTEXTS = 4096  # at most: the stationary distribution is solved densely
TRAIN_TOKENS = 1 << 40  # more than any run reads: the stream never repeats
EVAL_TOKENS = 1 << 18
SHARPNESS = 2.0  # exponent of the exponential weights of a row: 1 is uniform on the simplex, more is more predictable


@dataclasses.dataclass(frozen=True)
class Chain:
    """A stationary Markov chain of order 1 or 2 with random transitions.

    Args:
      symbols: size of the alphabet.
      order: symbols that the next one depends on.
      language: seed of the transitions.

    Raises:
      BadInput: an order other than 1 or 2, or too many or too few symbols.
    """

    symbols: int
    order: int
    language: int

    def __post_init__(self) -> None:
        if self.order not in (1, 2):
            raise BadInput(f"data.corpus_args.order: corpus markov has order 1 or 2, got {self.order}")
        if not self.symbols >= 2 or self.symbols**self.order > CONTEXTS:
            most = int(CONTEXTS ** (1 / self.order))
            raise BadInput(f"data.corpus_args.symbols: want 2 to {most} at order {self.order}, got {self.symbols}")

    @functools.cached_property
    def transitions(self) -> Float[np.ndarray, "contexts symbols"]:
        """Probability of the next symbol after each context, the older symbol counting `symbols` times."""
        contexts = np.arange(self.symbols**self.order, dtype=np.uint64)
        weights = -np.log1p(-uniforms(fold(VERSION, self.language), contexts, self.symbols)) + 1e-12
        weights **= SHARPNESS
        return weights / weights.sum(axis=1, keepdims=True)

    @functools.cached_property
    def stationary(self) -> Float[np.ndarray, " contexts"]:
        """Probability of each context in the long run."""
        contexts = self.symbols**self.order
        steps = np.zeros((contexts, contexts))
        source = np.repeat(np.arange(contexts), self.symbols)
        target = source % (contexts // self.symbols) * self.symbols + np.tile(np.arange(self.symbols), contexts)
        np.add.at(steps, (target, source), self.transitions.ravel())
        equations = steps - np.eye(contexts)
        equations[-1] = 1.0  # one balance equation follows from the others; the probabilities sum to one
        return np.linalg.solve(equations, np.eye(contexts)[-1])

    @functools.cached_property
    def entropy_rate(self) -> float:
        """Nats a symbol that remain when the whole past is known: the least loss there is.

        Source: Cover and Thomas 2006, Elements of information theory, equation 4.27.
        """
        return float(-(self.stationary @ (self.transitions * np.log(self.transitions)).sum(axis=1)))

    def best_loss(self, seq_len: int) -> float:
        """The least mean loss over a window, in nats a symbol: the first of them see less than a whole context."""
        if self.order == 1:
            return self.entropy_rate
        pairs = self.stationary.reshape(self.symbols, self.symbols)
        single = pairs.sum(axis=1)
        first = float(-(pairs * np.log(pairs)).sum() + (single * np.log(single)).sum())
        return (first + (seq_len - 1) * self.entropy_rate) / seq_len

    def sample(self, key: int, rows: Int[np.ndarray, " rows"], length: int) -> UInt[np.ndarray, "rows {length}"]:
        """Stretches of the language, each begun in the stationary distribution; (key, row) decides each."""
        chance = uniforms(key, np.asarray(rows).astype(np.uint64), max(length, self.order))
        out = np.empty(chance.shape, np.int64)
        context = np.searchsorted(np.cumsum(self.stationary)[:-1], chance[:, 0], side="right")
        out[:, : self.order] = context[:, None] if self.order == 1 else np.stack(divmod(context, self.symbols), axis=1)
        kept = self.symbols ** (self.order - 1)
        for place in range(self.order, length):
            symbol = np.searchsorted(self._ladder, context + chance[:, place], side="right") - context * self.symbols
            out[:, place] = symbol = np.minimum(symbol, self.symbols - 1)
            context = context % kept * self.symbols + symbol
        return out[:, :length].astype(token_dtype(self.symbols))

    @functools.cached_property
    def _ladder(self) -> Float[np.ndarray, " rungs"]:
        """Cumulative probabilities of all contexts in one ascending array: context c occupies (c, c + 1]."""
        rungs = np.cumsum(self.transitions, axis=1)
        rungs[:, -1] = 1.0
        return (rungs + np.arange(len(rungs))[:, None]).ravel()


@dataclasses.dataclass(frozen=True)
class Stream(Windows):
    """One split of a Markov language; each window is a document of its own.

    Args:
      name: for messages.
      chain: the language.
      key: keeps the splits apart.
      size: tokens in the split.
      endless: whether that many are more than any run reads.
    """

    name: str
    chain: Chain
    key: int
    size: int
    endless: bool
    num_documents = None

    @property
    def num_tokens(self) -> int | None:
        return None if self.endless else self.size

    @property
    def num_bytes(self) -> int | None:
        """A symbol counts as a byte."""
        return self.num_tokens

    def num_windows(self, seq_len: int) -> int:
        return (self.size - 1) // seq_len

    def windows(self, indices: Int[np.ndarray, " rows"], seq_len: int) -> UInt[np.ndarray, "rows {seq_len}+1"]:
        self.check(indices, seq_len)
        return self.chain.sample(self.key, indices, seq_len + 1)

    def document_ids(self, indices: Int[np.ndarray, " rows"], seq_len: int) -> Int[np.ndarray, "rows {seq_len}"]:
        self.check(indices, seq_len)
        return np.repeat(np.asarray(indices, np.int64)[:, None], seq_len, axis=1)


@dataclasses.dataclass(frozen=True)
class Markov:
    """The corpus `markov`, with the interface of a token store.

    Args:
      chain: the language.
    """

    chain: Chain
    end = -1  # no symbol ends a document

    @property
    def vocab_size(self) -> int:
        return self.chain.symbols

    @property
    def entropy_rate(self) -> float:
        """Nats a token."""
        return self.chain.entropy_rate

    @property
    def token_bytes(self) -> Int[np.ndarray, " vocab"]:
        """A symbol counts as a byte."""
        return np.ones(self.vocab_size, np.int32)

    @property
    def tokenizer(self) -> Any:
        raise BadInput("corpus markov: its symbols spell no text")

    def facts(self) -> Record:
        """Entries of a run's record; `unique_tokens` is None: the stream never ends."""
        language = {"version": VERSION, **dataclasses.asdict(self.chain)}
        return {
            "corpus": "markov",
            "corpus_hash": digest(language),
            "data_hash": digest(["markov", language]),
            "tokenizer": "symbols",
            "tokenizer_hash": digest(["symbols", self.chain.symbols]),
            "vocab_size": self.vocab_size,
            "unique_tokens": None,
            "eval_set_tokens": EVAL_TOKENS,
        }

    def split(self, name: str) -> Stream:
        """The split "train" or "eval"."""
        return self._splits[name]

    @functools.cached_property
    def _splits(self) -> dict[str, Stream]:
        keys = [fold(VERSION, self.chain.language, 1, place) for place in (0, 1)]
        return {
            "train": Stream("markov (train)", self.chain, keys[0], TRAIN_TOKENS, endless=True),
            "eval": Stream("markov (eval)", self.chain, keys[1], EVAL_TOKENS, endless=False),
        }


def from_config(data: ConfigDict) -> Markov:
    """The corpus `markov` of a config's section `data`: `symbols` (16), `order` (1) and `language` (0) in corpus_args.

    Raises:
      BadInput: an argument of another corpus, or one out of range.
    """
    args: Any = data.corpus_args
    given = {key: value for key, value in args.items() if value is not None}
    for key in given:
        if key not in ARGUMENTS:
            raise BadInput(
                f"data.corpus_args.{key}: corpus markov has no such argument (it reads {', '.join(ARGUMENTS)})"
            )
    return Markov(Chain(**{"symbols": 16, "order": 1, "language": 0, **given}))


ARGUMENTS = ("symbols", "order", "language")
