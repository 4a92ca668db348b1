"""Builds a token store: documents are split, shuffled, tokenized once, packed into shards; stoppable at any time.

Everything follows from the texts, not from the order in which they are found: a document's hash decides its split and,
with the seed, its place. The store grows in a folder `NAME.partial` and is renamed when whole; finished shards of a
build that was cut are verified and kept.
"""

import contextlib
import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from jaxtyping import Bool, Int, UInt64
from rich.progress import Progress

from lm import tokenizer as tokenizers
from lm.store import FORMAT
from training.cache import building, describe, digest, progress, sha256, write
from training.errors import BadInput
from training.files import read_json, write_json
from training.permutation import fold, mix

if TYPE_CHECKING:
    from lm.corpora import Corpus
    from lm.corpora.builder import Documents

CHUNK = 8 << 20  # bytes of text tokenized together
BPE_BYTES = 64 << 20  # bytes of text that a vocabulary is trained on, at most


def build(
    path: Path, corpus: "Corpus", tokenizer: str, eval_fraction: float, seed: int, shard_tokens: int, show: bool = True
) -> None:
    """Build the store in folder `path`, or go on with what a build that was cut left.

    The caller holds the lock of `path`.

    Args:
      path: the store's folder; must not exist.
      corpus: the documents.
      tokenizer: "bytes", "bpe:SIZE", "gpt2" or a path.
      eval_fraction: share of the documents held out.
      seed: of the order of the training documents; the evaluation split is the same for every seed.
      shard_tokens: a shard is closed at the first document boundary from here on.
      show: a progress bar, where standard error is a terminal.

    Raises:
      BadInput: an empty corpus, too few documents for two splits, or a full disk.
    """
    with building(path) as partial, progress(show) as bar:
        documents = corpus.documents()
        digests, sizes, groups = _index(documents, partial, bar)
        note = ""
        if eval_fraction and documents.parts == 1 and np.sum(sizes > 0) == 1:
            documents, note = _cut_in_two(documents, int(np.argmax(sizes)), eval_fraction)
            raw = [text.encode() for text in documents.texts([0, 1])]
            digests, sizes = np.array([_hash(part) for part in raw], np.uint64), np.array([len(part) for part in raw])
            held = np.array([False, True])
        else:
            held = held_out(groups, sizes, eval_fraction, corpus.name)
        used = sizes > 0
        if note and show:
            bar.console.print(f"corpus {corpus.name}: {note}")
        made = _tokenizer(tokenizer, documents, digests, sizes, used & ~held, partial)
        task = bar.add_task("tokenizing", total=int(sizes.sum()))
        splits = {}
        for name, members, key in (("train", used & ~held, seed), ("eval", used & held, 0)):
            order = shuffled(digests, np.flatnonzero(members), key)
            splits[name] = _pack(
                name, documents, order, sizes, made, shard_tokens, partial, lambda n: bar.advance(task, n)
            )
        corpus_hash = hashlib.sha256(np.sort(digests[used]).tobytes()).hexdigest()
        manifest = {
            "format": FORMAT,
            "corpus": corpus.name,
            "corpus_identity": corpus.identity,
            "corpus_hash": corpus_hash,
            "data_hash": digest([FORMAT, corpus_hash, made.hash, eval_fraction, seed]),
            "tokenizer": tokenizer if os.sep not in tokenizer else Path(tokenizer).name,
            "tokenizer_hash": made.hash,
            "tokenizer_file": describe(partial / "tokenizer.json"),
            "vocab_size": made.vocab_size,
            "end": made.end,
            "parts": documents.parts,
            "seed": seed,
            "eval_fraction": eval_fraction,
            **({"note": note} if note else {}),
            "splits": splits,
        }
        write_json(partial / "manifest.json", manifest)
        for leftover in (partial / "index.npz", *partial.glob("*-[0-9]*.json"), *partial.glob(".*")):
            leftover.unlink()


def held_out(
    digests: UInt64[np.ndarray, " documents"], sizes: Int[np.ndarray, " documents"], fraction: float, name: str
) -> Bool[np.ndarray, " documents"]:
    """Which documents are for evaluation: those whose hash is small, so that copies stay on one side and a document
    never changes sides when others come or go. At least one, unless the fraction is 0.

    Args:
      digests: hash of each text, or of what it must not be parted from.
      sizes: bytes of each text; empty documents count for nothing.
      fraction: expected share of the documents, in [0, 1).
      name: of the corpus, for the message.

    Raises:
      BadInput: there is no text, or no document is left for one of the splits.
    """
    used = sizes > 0
    if not used.any():
        raise BadInput(f"corpus {name}: empty, there is no text in it")
    if not fraction:
        return np.zeros(len(digests), bool)
    held = used & (digests < np.uint64(int(fraction * 2**64)))
    if not held.any():
        held = used & (digests == digests[used].min())
    if not (used & ~held).any():
        raise BadInput(
            f"corpus {name}: {int(used.sum())} document(s) of one text cannot be split by document into train and eval; "
            "cut the text into documents, as with data.corpus_args.separator"
        )
    return held


class _Parts:
    """The two parts of one document, as documents of their own."""

    parts = 1

    def __init__(self, name: str, texts: tuple[str, str]):
        self.name, self._texts = name, texts

    def __len__(self) -> int:
        return len(self._texts)

    def texts(self, indices: Sequence[int]) -> list[str]:
        """Those parts."""
        return [self._texts[index] for index in indices]

    def groups(self, indices: Sequence[int]) -> None:
        """Their texts decide."""
        del indices


def _cut_in_two(documents: "Documents", row: int, fraction: float) -> tuple["Documents", str]:
    """The only document as two: its beginning, and its end, which is held out; and what is to be said of that.

    It is cut after the last line that lies whole in the beginning, or else the last word, or else anywhere.

    Raises:
      BadInput: the text is a single character.
    """
    (text,) = documents.texts([row])
    if len(text) < 2:
        raise BadInput(f"corpus {documents.name}: one text of one character cannot be split into train and eval")
    wanted = min(max(round(len(text) * (1 - fraction)), 1), len(text) - 1)
    after = (text.rfind(mark, 0, wanted) + 1 for mark in ("\n", " "))
    cut = next((place for place in after if place > wanted // 2), wanted)
    note = f"one document: its last {1 - cut / len(text):.1%} are held out for evaluation"
    return cast("Documents", _Parts(documents.name, (text[:cut], text[cut:]))), note


def shuffled(
    digests: UInt64[np.ndarray, " documents"], members: Int[np.ndarray, " members"], seed: int
) -> Int[np.ndarray, " members"]:
    """Members in an order that only their texts and the seed decide."""
    return members[np.argsort(mix(digests[members] ^ np.uint64(fold(seed))), kind="stable")]


def _index(documents: "Documents", partial: Path, bar: Progress) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hash and size in bytes of each text, and the hash that decides its split: its own, or that of its group."""
    path = partial / "index.npz"
    if path.is_file():
        with contextlib.suppress(Exception), np.load(path) as saved:
            if len(saved["sizes"]) == len(documents):
                return saved["digests"], saved["sizes"], saved["groups"]
    digests, sizes = np.empty(len(documents), np.uint64), np.empty(len(documents), np.int64)
    groups = digests.copy()
    task = bar.add_task("hashing", total=None)
    for start in range(0, len(documents), 256):
        rows = range(start, min(start + 256, len(documents)))
        texts = [text.encode() for text in documents.texts(rows)]
        whole = [b"\0".join(texts[i : i + documents.parts]) for i in range(0, len(texts), documents.parts)]
        digests[rows.start : rows.stop] = [_hash(raw) for raw in whole]
        sizes[rows.start : rows.stop] = [len(raw) - documents.parts + 1 for raw in whole]
        named = documents.groups(rows)
        groups[rows.start : rows.stop] = (
            digests[rows.start : rows.stop] if named is None else [_hash(name.encode()) for name in named]
        )
        bar.advance(task, int(sizes[rows.start : rows.stop].sum()))
    bar.remove_task(task)
    write(path, lambda file: np.savez(file, digests=digests, sizes=sizes, groups=groups))
    return digests, sizes, groups


def _hash(raw: bytes) -> int:
    """The first 64 bits of SHA-256."""
    return int.from_bytes(hashlib.sha256(raw).digest()[:8], "big")


def _tokenizer(
    spec: str, documents: "Documents", digests: np.ndarray, sizes: np.ndarray, members: np.ndarray, partial: Path
) -> tokenizers.Tokenizer:
    """The tokenizer of the store; a vocabulary is trained on training documents, in the order of their hashes."""
    path = partial / "tokenizer.json"
    size = tokenizers.bpe_size(spec)
    if size and path.is_file():
        return tokenizers.load(path)
    if size:
        order = np.flatnonzero(members)
        order = order[np.argsort(digests[order], kind="stable")]
        order = order[np.cumsum(sizes[order]) - sizes[order] < BPE_BYTES]
        made = tokenizers.train_bpe((t for rows in _chunks(order, sizes) for t in documents.texts(rows.tolist())), size)
    else:
        made = tokenizers.ready(spec)
        assert made is not None
    made.save(path)
    return made


def _pack(
    split: str,
    documents: "Documents",
    order: np.ndarray,
    sizes: np.ndarray,
    tokenizer: tokenizers.Tokenizer,
    shard_tokens: int,
    partial: Path,
    advance: Any,
) -> dict[str, Any]:
    """Write the shards of a split; returns its entry in the manifest."""
    parts = documents.parts
    shards, offsets = _finished(split, partial, tokenizer.end)
    done = sum(shard["documents"] for shard in shards)
    advance(int(sizes[order[:done]].sum()))
    pending: list[np.ndarray] = []
    begun = offsets[-1]  # tokens in whole shards

    def close() -> None:
        path = partial / f"{split}-{len(shards):05d}.npy"
        tokens = np.concatenate(pending)
        write(path, lambda file: np.save(file, tokens))
        entry = describe(path) | {
            "documents": len(pending) // parts,
            "tokens": len(tokens),
            "token_bytes": int(tokenizer.token_bytes[tokens].sum()),
        }
        write_json(path.with_suffix(".json"), entry)
        shards.append(entry)
        pending.clear()

    for rows in _chunks(order[done:], sizes):
        for tokens in tokenizer.encode_batch(documents.texts(rows.tolist())):
            pending.append(np.append(tokens, tokens.dtype.type(tokenizer.end)))
            offsets.append(offsets[-1] + len(pending[-1]))
            if len(pending) % parts == 0 and offsets[-1] - begun >= shard_tokens:
                close()
                begun = offsets[-1]
        advance(int(sizes[rows].sum()))
    if pending:
        close()
    path = partial / f"{split}-offsets.npy"
    write(path, lambda file: np.save(file, np.array(offsets, np.int64)))
    return {
        "documents": len(order),
        "tokens": sum(shard["tokens"] for shard in shards),
        "bytes": int(sizes[order].sum()),
        "token_bytes": sum(shard["token_bytes"] for shard in shards),
        "offsets": describe(path),
        "shards": shards,
    }


def _finished(split: str, partial: Path, end: int) -> tuple[list[dict[str, Any]], list[int]]:
    """The whole shards that an earlier build left, and the document offsets within them; drops what follows them."""
    shards: list[dict[str, Any]] = []
    offsets = [0]
    for sidecar in sorted(partial.glob(f"{split}-[0-9]*.json")):
        path = sidecar.with_suffix(".npy")
        with contextlib.suppress(BadInput, OSError, KeyError, TypeError):
            entry = read_json(sidecar)
            if sidecar.stem == f"{split}-{len(shards):05d}" and sha256(path) == entry["sha256"]:
                offsets += (np.flatnonzero(np.load(path) == end) + 1 + offsets[-1]).tolist()
                shards.append(entry)
                continue
        sidecar.unlink()
    return shards, offsets


def _chunks(order: np.ndarray, sizes: np.ndarray) -> Iterator[np.ndarray]:
    """Consecutive documents, about CHUNK bytes at a time."""
    if len(order):
        group = np.cumsum(sizes[order]) // CHUNK
        yield from np.split(order, np.flatnonzero(np.diff(group)) + 1)
