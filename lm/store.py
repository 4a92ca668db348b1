"""The token store: a folder of memory-mapped shards that one stream of windows a split is read from.

It holds `manifest.json`, `tokenizer.json`, shards `train-00000.npy` and so on, and each split's document offsets.
"""

import bisect
import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, UInt

from lm import tokenizer as tokenizers
from lm.token_windows import Windows
from training.cache import check
from training.errors import BadInput
from training.files import read_object
from training.types import Record

FORMAT = 1
SPLITS = ("train", "eval")
FACTS = (
    "corpus",
    "corpus_hash",
    "data_hash",
    "tokenizer",
    "tokenizer_hash",
    "vocab_size",
)  # of the manifest, for records


@dataclasses.dataclass(frozen=True)
class Split(Windows):
    """One split of a store: shards seen as one stream.

    Args:
      name: for messages.
      shards: the tokens of each shard, memory-mapped.
      offsets: where each text begins, and where the last ends.
      num_bytes: raw bytes of the text.
      parts: texts of a document, one after another: 1, or 2 of a pair.
      byte_ratio: raw bytes of the text over the bytes that its tokens stand for: not one where the tokenizer normalises
        text or begins it with a space.
    """

    name: str
    shards: tuple[UInt[np.ndarray, " _"], ...]
    offsets: Int[np.ndarray, " boundaries"]
    num_bytes: int
    parts: int = 1
    byte_ratio: float = 1.0

    @property
    def num_tokens(self) -> int:
        return self._ends[-1] if self._ends else 0

    @property
    def num_documents(self) -> int:
        return (len(self.offsets) - 1) // self.parts

    @functools.cached_property
    def _ends(self) -> list[int]:
        return np.cumsum([len(shard) for shard in self.shards]).tolist()

    def read(self, start: int, out: UInt[np.ndarray, " length"]) -> None:
        """Fill `out` with the tokens from `start` on, across shards."""
        shard = bisect.bisect_right(self._ends, start)
        place = start - (self._ends[shard - 1] if shard else 0)
        filled = 0
        while filled < len(out):
            piece = self.shards[shard][place : place + len(out) - filled]
            out[filled : filled + len(piece)] = piece
            filled, shard, place = filled + len(piece), shard + 1, 0

    def windows(self, indices: Int[np.ndarray, " rows"], seq_len: int) -> UInt[np.ndarray, "rows {seq_len}+1"]:
        self.check(indices, seq_len)
        out = np.empty((len(indices), seq_len + 1), self.shards[0].dtype if self.shards else np.uint16)
        for row, index in zip(out, np.asarray(indices).tolist(), strict=True):
            self.read(index * seq_len, row)
        return out

    def document_ids(self, indices: Int[np.ndarray, " rows"], seq_len: int) -> Int[np.ndarray, "rows {seq_len}"]:
        self.check(indices, seq_len)
        places = np.asarray(indices, np.int64)[:, None] * seq_len + np.arange(1, seq_len + 1)
        return (np.searchsorted(self.offsets, places, side="right") - 1) // self.parts

    def texts(self, documents: Int[np.ndarray, " rows"], part: int = 0) -> list[UInt[np.ndarray, " _"]]:
        """The tokens of one part of documents, without the symbol that ends it."""
        at = np.asarray(documents, np.int64) * self.parts + part
        found = []
        for start, end in zip(self.offsets[at].tolist(), self.offsets[at + 1].tolist(), strict=True):
            found.append(np.empty(end - start - 1, self.shards[0].dtype))
            self.read(start, found[-1])
        return found


@dataclasses.dataclass(frozen=True)
class TokenStore:
    """A corpus as tokens.

    Args:
      path: its folder.
      manifest: what `manifest.json` says.
    """

    path: Path
    manifest: Mapping[str, Any]

    @property
    def vocab_size(self) -> int:
        return self.manifest["vocab_size"]

    @property
    def end(self) -> int:
        """The end-of-document symbol."""
        return self.manifest["end"]

    @functools.cached_property
    def tokenizer(self) -> tokenizers.Tokenizer:
        """The tokenizer that made the store."""
        return tokenizers.load(self.path / "tokenizer.json")

    @property
    def token_bytes(self) -> Int[np.ndarray, " vocab"]:
        """Raw bytes of text behind each symbol, 0 for the end symbol."""
        return self.tokenizer.token_bytes

    def facts(self) -> Record:
        """Entries of a run's record."""
        return {key: self.manifest[key] for key in FACTS} | {
            "unique_tokens": self.manifest["splits"]["train"]["tokens"],
            "eval_set_tokens": self.manifest["splits"]["eval"]["tokens"],
        }

    def split(self, name: str) -> Split:
        """The split "train" or "eval"."""
        return self._splits[name]

    @functools.cached_property
    def _splits(self) -> dict[str, Split]:
        return {name: self._open(name) for name in SPLITS}

    def _open(self, name: str) -> Split:
        entry = self.manifest["splits"][name]
        shards = tuple(_mapped(self.path / shard["file"]) for shard in entry["shards"])
        offsets = _mapped(self.path / entry["offsets"]["file"])
        parts = self.manifest.get("parts", 1)
        ratio = entry["bytes"] / entry["token_bytes"] if entry["token_bytes"] else 1.0
        return Split(f"{self.manifest['corpus']} ({name})", shards, offsets, entry["bytes"], parts, ratio)


def open_store(path: Path, tokenizer: tokenizers.Tokenizer | None = None, verify: bool = False) -> TokenStore:
    """The store in a folder, its files compared with the manifest.

    Args:
      path: folder of the store.
      tokenizer: what the caller is going to use; must be the store's own.
      verify: hash every file; else large stores only where a file's size or time differs from when it was last hashed.

    Raises:
      BadInput: no store, a damaged file, or another tokenizer.
    """
    if not (path / "manifest.json").is_file():
        raise BadInput(f"{path}: no token store there (manifest.json is missing)")
    manifest = read_object(path / "manifest.json", *FACTS, "format", "end", "tokenizer_file", "splits")
    if manifest["format"] != FORMAT:
        raise BadInput(f"{path / 'manifest.json'}: not a token store of format {FORMAT}")
    if tokenizer is not None and tokenizer.hash != manifest["tokenizer_hash"]:
        raise BadInput(
            f"{path}: the tokenizer (hash {tokenizer.hash[:12]}) does not match the manifest, "
            f"which was made with {manifest['tokenizer']} (hash {manifest['tokenizer_hash'][:12]})"
        )
    check(path, files_of(manifest), verify)
    return TokenStore(path, manifest)


def files_of(manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every file that a manifest lists, as {"file", "size", "sha256", ...}."""
    splits = [manifest["splits"][name] for name in SPLITS]
    return [manifest["tokenizer_file"], *(file for s in splits for file in (*s["shards"], s["offsets"]))]


def _mapped(path: Path) -> np.ndarray:
    return np.asarray(np.load(path, mmap_mode="r"))  # slices of a plain array are cheaper than of a memmap
