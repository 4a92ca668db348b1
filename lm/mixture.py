"""Mixtures of corpora: the domain of each training window as a pure function of its place, and their stores as one text.

Window e of a run, counted from the first step, is of a domain by a fixed sequence of `PERIOD` places that repeats: at
every place the domain that lies furthest below its share. So a period holds every domain exactly by its share, rounded
to 1/`PERIOD`, and any stretch of it is off by a window or two. Each domain walks through a permutation of its own windows,
which is drawn anew in each of its own epochs.
"""

import dataclasses
import functools
import math
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from jaxtyping import Bool, Float, Int, UInt
from ml_collections import ConfigDict

from lm import tokenizer as tokenizers
from lm.store import FACTS, TokenStore
from lm.token_windows import Rows, Windows
from training import cache, permutation
from training.errors import BadInput
from training.types import Record

NAME = "mixture"  # of `data.corpus`
PERIOD = 4096  # places of the sequence of domains: shares are multiples of 1/4096
FORM = "((domain, weight) or (domain, weight, 'corpus key=value'), ...)"
PURPOSE = 7  # of the keys of the domains' permutations


@dataclasses.dataclass(frozen=True)
class Domain:
    """One corpus of a mixture.

    Args:
        name: of its columns in records.
        weight: of its training windows, beside the others'.
        corpus: as `data.corpus` names it.
        arguments: of the corpus, as `data.corpus_args`.
    """

    name: str
    weight: float
    corpus: str
    arguments: tuple[tuple[str, str], ...] = ()


def domains_of(data: ConfigDict) -> tuple[Domain, ...]:
    """The domains of `data.mixture`, none where the corpus is no mixture.

    Raises:
        BadInput: the key is no mixture, or is not read.
    """
    if (data.corpus == NAME) != bool(data.mixture):
        raise BadInput(f"data.mixture: goes with data.corpus={NAME}, and wants {FORM}")
    domains = tuple(map(_domain, data.mixture))
    names = [domain.name for domain in domains]
    if len(set(names)) < len(names):
        raise BadInput(f"data.mixture: a domain is named twice: {', '.join(names)}")
    if domains:
        quotas([domain.weight for domain in domains])
    return domains


def _domain(entry: Any) -> Domain:
    is_entry = isinstance(entry, tuple | list) and len(entry) in (2, 3)
    if not is_entry or not all(isinstance(text, str) and text for text in (entry[0], entry[-1] if entry[2:] else "-")):
        raise BadInput(f"data.mixture: wants {FORM}, got {entry!r}")
    name, weight = entry[:2]
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < math.inf:
        raise BadInput(f"data.mixture: the weight of {name} must be a number from 0, got {weight!r}")
    try:
        corpus, *words = shlex.split(entry[2]) if entry[2:] else [name]
    except ValueError as error:
        raise BadInput(f"data.mixture: {entry[2]!r} ({error})") from None
    pairs = [word.partition("=") for word in words]
    if corpus in (NAME, "markov", "store") or not all(key and equals for key, equals, _ in pairs):
        raise BadInput(f"data.mixture: {name}: wants a corpus and its arguments, as 'debian packages=python3-doc'")
    return Domain(name, float(weight), corpus, tuple((key, value) for key, _, value in pairs))


def quotas(weights: Sequence[float]) -> Int[np.ndarray, " domains"]:
    """Windows of each domain in a period, by largest remainders.

    Args:
        weights: of the domains, not negative; they need not sum to one.

    Raises:
        BadInput: all are zero, or one is so small beside the others that no window would be of its domain.
    """
    total = math.fsum(weights)
    if not total > 0:
        raise BadInput("data.mixture: all weights are zero")
    exact = np.asarray(weights, np.float64) / total * PERIOD
    counts = np.floor(exact).astype(np.int64)
    order = np.argsort(counts - exact, kind="stable")  # the largest remainder first
    counts[order[: PERIOD - counts.sum()]] += 1
    if any(count == 0 < weight for count, weight in zip(counts, weights, strict=True)):
        raise BadInput(f"data.mixture: a weight is below 1/{PERIOD} of the sum")
    return counts


@functools.lru_cache(maxsize=64)
def sequence(counts: tuple[int, ...]) -> tuple[Int[np.ndarray, " places"], Int[np.ndarray, " places"]]:
    """The domain of each place of a period, and how many places before it are of the same domain.

    Args:
        counts: windows of each domain in the period.
    """
    shares, taken = np.array(counts, np.float64) / sum(counts), np.zeros(len(counts), np.int64)
    domains, before = np.empty(sum(counts), np.int64), np.empty(sum(counts), np.int64)
    for place in range(len(domains)):
        behind = np.where(taken < counts, shares * (place + 1) - taken, -np.inf)
        domains[place] = chosen = int(np.argmax(behind))
        before[place] = taken[chosen]
        taken[chosen] += 1
    return domains, before


@dataclasses.dataclass(frozen=True, eq=False)
class MixedWindows(Windows):
    """The same split of several stores: windows are numbered through, those of the first domain first.

    Args:
        name: for messages.
        domains: name of each.
        parts: its stream.
        counts: windows of each domain in a period.
    """

    name: str
    domains: tuple[str, ...]
    parts: tuple[Windows, ...]
    counts: tuple[int, ...]

    @property
    def num_tokens(self) -> int:
        return sum(part.num_tokens or 0 for part in self.parts)

    @property
    def num_documents(self) -> int:
        return sum(part.num_documents or 0 for part in self.parts)

    @property
    def num_bytes(self) -> int:
        return sum(part.num_bytes or 0 for part in self.parts)

    def num_windows(self, seq_len: int) -> int:
        """Windows of a run before the first domain begins anew."""
        lengths = [part.num_windows(seq_len) for part in self.parts]
        used = [(length, count) for length, count in zip(lengths, self.counts, strict=True) if count]
        return min(length * PERIOD // count for length, count in used)

    def _starts(self, seq_len: int) -> Int[np.ndarray, " domains+1"]:
        """The number of the first window of each domain, and of all windows."""
        return np.cumsum([0, *(part.num_windows(seq_len) for part in self.parts)])

    def domain_of(self, indices: Int[np.ndarray, " rows"], seq_len: int) -> Int[np.ndarray, " rows"]:
        """The domain of windows, by its place in `domains`.

        Args:
            indices: numbers of windows.
            seq_len: predicted tokens a window.
        """
        return np.searchsorted(self._starts(seq_len), indices, side="right") - 1

    def windows(self, indices: Int[np.ndarray, " rows"], seq_len: int) -> UInt[np.ndarray, "rows {seq_len}+1"]:
        out = np.empty((len(indices), seq_len + 1), np.uint16)
        for j, rows, own in self._by_domain(indices, seq_len):
            read = self.parts[j].windows(own, seq_len)
            out = out.astype(read.dtype) if read.dtype.itemsize > out.dtype.itemsize else out
            out[rows] = read
        return out

    def document_ids(self, indices: Int[np.ndarray, " rows"], seq_len: int) -> Int[np.ndarray, "rows {seq_len}"]:
        out, first = (
            np.empty((len(indices), seq_len), np.int64),
            np.cumsum([0, *(p.num_documents or 0 for p in self.parts)]),
        )
        for j, rows, own in self._by_domain(indices, seq_len):
            out[rows] = self.parts[j].document_ids(own, seq_len) + first[j]
        return out

    def by_domain(
        self, indices: Int[np.ndarray, " rows"], seq_len: int
    ) -> dict[str, tuple[Bool[np.ndarray, " rows"], float]]:
        of_domain = self.domain_of(indices, seq_len)
        named = enumerate(zip(self.domains, self.parts, strict=True))
        return {name: (of_domain == j, part.byte_ratio) for j, (name, part) in named}

    def _by_domain(self, indices: Int[np.ndarray, " rows"], seq_len: int):
        """Domain, rows and the domain's own numbers of windows, for each domain that has any."""
        indices, starts = np.asarray(indices), self._starts(seq_len)
        if len(indices) and (indices.min() < 0 or indices.max() >= starts[-1]):
            raise IndexError(f"{self.name}: a window outside [0, {starts[-1]})")
        of_domain = self.domain_of(indices, seq_len)
        return [(j, rows, indices[rows] - starts[j]) for j in np.unique(of_domain) for rows in [of_domain == j]]

    def batch(
        self, seed: int, k: int, batch_size: int, seq_len: int, rows: Rows = slice(None)
    ) -> UInt[np.ndarray, "rows {seq_len}+1"]:
        """Rows of global batch k, by shares; arguments and errors as of `Windows.batch`."""
        return self.windows(self.indices(seed, k, batch_size, seq_len, rows), seq_len)

    def indices(
        self, seed: int, k: int, batch_size: int, seq_len: int, rows: Rows = slice(None)
    ) -> Int[np.ndarray, " rows"]:
        """The numbers of the windows in rows of global batch k; arguments and errors as of `batch`."""
        domains, before = sequence(self.counts)
        starts = self._starts(seq_len)
        period, place = np.divmod(k * batch_size + np.arange(batch_size, dtype=np.int64)[rows], PERIOD)
        out = np.empty(len(place), np.int64)
        for j, part in enumerate(self.parts):
            if not self.counts[j]:
                continue
            if part.num_windows(seq_len) < 1:
                part.need(1, seq_len)
            mine = domains[place] == j
            drawn = period[mine] * self.counts[j] + before[place[mine]]
            epochs, index = np.divmod(drawn, part.num_windows(seq_len))
            for epoch in np.unique(epochs):
                now = epochs == epoch
                key = permutation.fold(seed, PURPOSE, j)
                index[now] = permutation.permute(index[now], part.num_windows(seq_len), key, int(epoch))
            out[mine] = starts[j] + index
        return out

    def need(self, batch_size: int, seq_len: int) -> None:
        """Refuse a domain that holds no window; a small one is only met more often."""
        del batch_size
        for part, count in zip(self.parts, self.counts, strict=True):
            if count:
                part.need(1, seq_len)

    def streams(
        self, seed: int, k: int, batch_size: int, seq_len: int, rows: Rows = slice(None)
    ) -> tuple[UInt[np.ndarray, "rows {seq_len}+1"], Bool[np.ndarray, " rows"]]:
        """Refused: rows of a mixture do not continue one another."""
        _no_order(seed, k, batch_size, seq_len, rows)

    def eval_sample(self, tokens: int | None, seq_len: int) -> Int[np.ndarray, " rows"]:
        """As many tokens of each domain, whatever its weight: mixtures are compared on one set. As `Windows.eval_sample`."""
        each, starts = None if tokens is None else tokens // len(self.parts), self._starts(seq_len)
        samples = [part.eval_sample(each, seq_len) for part in self.parts]
        return np.concatenate([sample + start for sample, start in zip(samples, starts[:-1], strict=True)])


def _no_order(*_: object) -> NoReturn:
    raise BadInput(
        f"model.stateful: the rows of a {NAME} do not continue one another; data.corpus of one corpus has such"
    )


@dataclasses.dataclass(frozen=True)
class Mixture:
    """Several token stores of one tokenizer.

    Args:
        domains: the name of each.
        stores: its store.
        counts: windows of each domain in a period.
    """

    domains: tuple[str, ...]
    stores: tuple[TokenStore, ...]
    counts: tuple[int, ...]

    path: Path | None = None

    @property
    def vocab_size(self) -> int:
        return self.stores[0].vocab_size

    @property
    def end(self) -> int:
        """The end-of-document symbol."""
        return self.stores[0].end

    @property
    def tokenizer(self) -> tokenizers.Tokenizer:
        """That of all domains."""
        return self.stores[0].tokenizer

    @property
    def token_bytes(self) -> Int[np.ndarray, " vocab"]:
        """Raw bytes of text behind each symbol, 0 for the end symbol."""
        return self.stores[0].token_bytes

    @property
    def shares(self) -> Float[np.ndarray, " domains"]:
        """Of the training windows that are each domain's."""
        return np.array(self.counts) / PERIOD

    def facts(self) -> Record:
        """Entries of a run's record: `weight/DOMAIN` is its share of the training windows."""
        of_parts = [store.facts() for store in self.stores]
        shared = {key: of_parts[0][key] for key in FACTS}
        hashes = {
            key: cache.digest([[*self.domains], [facts[key] for facts in of_parts]])
            for key in ("corpus_hash", "data_hash")
        }
        splits = {"unique_tokens": "train", "eval_set_tokens": "eval"}
        sums = {key: sum(s.manifest["splits"][split]["tokens"] for s in self.stores) for key, split in splits.items()}
        weights = {f"weight/{name}": float(share) for name, share in zip(self.domains, self.shares, strict=True)}
        return shared | {"corpus": "+".join(self.domains)} | hashes | sums | weights

    def split(self, name: str) -> MixedWindows:
        """The split "train" or "eval"."""
        parts = tuple(store.split(name) for store in self.stores)
        return MixedWindows(f"{'+'.join(self.domains)} ({name})", self.domains, parts, self.counts)


def of_stores(domains: Sequence[Domain], stores: Sequence[TokenStore]) -> Mixture:
    """The mixture of stores.

    Args:
        domains: name and weight of each.
        stores: of each.

    Raises:
        BadInput: their tokenizers differ, or the weights make no mixture.
    """
    hashes = {store.manifest["tokenizer_hash"] for store in stores}
    if len(hashes) > 1:
        raise BadInput(
            "data.tokenizer: every corpus of the mixture would train a tokenizer of its own: bytes, gpt2, or the path of "
            "one tokenizer.json"
        )
    counts = tuple(quotas([domain.weight for domain in domains]).tolist())
    return Mixture(tuple(domain.name for domain in domains), tuple(stores), counts)
