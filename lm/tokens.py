"""From the config section `data` to tokens: opens the store of a corpus, or builds it first."""

import re
from pathlib import Path

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from lm import corpora, mixture, packing, synthetic, tokenizer as tokenizers
from lm.mixture import Mixture
from lm.store import FORMAT, TokenStore, open_store
from training import cache
from training.errors import BadInput, nearest

__all__ = ["KEPT", "TokenStore", "cache_dir", "defaults", "keep", "open_store", "prepare", "vocab_size"]

KEPT = "tokenizer.json"  # of a run


def defaults() -> ConfigDict:
    """The config section `data`."""
    return ConfigDict(
        {
            "corpus": "stdlib",  # a row of lm.corpora.CORPORA, a name of TFDS's catalogue, "markov", "store", or "mixture"
            "mixture": (),  # of corpus "mixture": (corpus, weight), ...; see lm.mixture
            "corpus_args": corpora.defaults(),
            "tokenizer": "bytes",  # bytes, bpe:SIZE, gpt2, or the path of a tokenizer.json
            "vocab_size": placeholder(
                int
            ),  # rows of the embedding, at least the tokenizer's symbols, which is the default
            "seq_len": 128,  # predicted tokens a window
            "eval_fraction": 0.05,  # share of the documents held out
            "document_masking": placeholder(bool),  # documents do not see each other; None: on but for bytes
            "cache_dir": "",  # empty: $ISOFLOP_CACHE, else ~/.cache/isoflop
            "seed": 0,  # order of the training data
            "shard_tokens": 1 << 25,
        }
    )


def cache_dir(data: ConfigDict) -> Path:
    """The folder under which corpora and stores are kept."""
    return cache.folder(data.cache_dir)


def vocab_size(data: ConfigDict) -> int:
    """Rows of the embedding of a config's section `data`, whether or not anything is prepared yet.

    Rows beyond the symbols of the tokenizer take part in the softmax and are never targets.

    Raises:
      BadInput: there is no such tokenizer or language, or it has more symbols than `data.vocab_size`.
    """
    markov = data.corpus == "markov"
    symbols = synthetic.from_config(data).vocab_size if markov else tokenizers.vocab_size(data.tokenizer)
    if data.vocab_size is not None and data.vocab_size < symbols:
        raise BadInput(f"data.vocab_size: {data.vocab_size} rows are fewer than the {symbols} symbols of the tokenizer")
    return symbols if data.vocab_size is None else data.vocab_size


def prepare(data: ConfigDict, show: bool = True, verify: bool = False) -> TokenStore | Mixture | synthetic.Markov:
    """The tokens of a config's section `data`: opened where they are there, else built first.

    Of several processes that ask for one store, one builds and the others wait for it.

    Args:
      data: as `defaults`.
      show: a progress bar, where standard error is a terminal.
      verify: hash every file of a store that is there.

    Raises:
      BadInput: whatever is wrong with the section, the corpus, the tokenizer or the store.
    """
    if not 0 <= data.eval_fraction < 1:
        raise BadInput(f"data.eval_fraction: must be in [0, 1), got {data.eval_fraction}")
    if data.seq_len < 1 or data.shard_tokens < 1:
        raise BadInput("data.seq_len and data.shard_tokens must be positive")
    if domains := mixture.domains_of(data):
        stores = [prepare(_of_domain(data, domain), show, verify) for domain in domains]
        return mixture.of_stores(domains, [store for store in stores if isinstance(store, TokenStore)])
    if data.corpus == "markov":
        return synthetic.from_config(data)
    tokenizer = tokenizers.ready(data.tokenizer)
    if data.corpus == "store":
        return _given(data, tokenizer, verify)
    kept = cache.folder(data.cache_dir)
    corpus = corpora.open_corpus(data.corpus, data.corpus_args, kept)
    key = {
        "format": FORMAT,
        "corpus": corpus.identity,
        "tokenizer": tokenizer.hash if tokenizer else data.tokenizer,
        "eval_fraction": data.eval_fraction,
        "seed": data.seed,
        "shard_tokens": data.shard_tokens,
    }
    plain = re.sub(r"[^\w.-]+", "_", f"{data.corpus}-{Path(data.tokenizer).stem}")
    path = kept / "tokens" / f"{plain}-{cache.digest(key)[:12]}"
    if not path.is_dir():
        with cache.alone(path):
            if not path.is_dir():
                packing.build(path, corpus, data.tokenizer, data.eval_fraction, data.seed, data.shard_tokens, show)
    return open_store(path, tokenizer, verify)


def _of_domain(data: ConfigDict, domain: mixture.Domain) -> ConfigDict:
    """The section `data` of one corpus of a mixture.

    Raises:
      BadInput: the corpus is of pairs, or has no such argument.
    """
    other = ConfigDict(data.copy_and_resolve_references())
    with other.unlocked():
        other.corpus, other.mixture, other.corpus_args = domain.corpus, (), corpora.defaults()
        for key, value in domain.arguments:
            if key not in other.corpus_args or other.corpus_args.get_type(key) is not str:
                raise BadInput(
                    f"data.mixture: {domain.name}: unknown argument {key!r}{nearest(key, other.corpus_args)}"
                )
            other.corpus_args[key] = value
    if corpora.paired(domain.corpus, other.corpus_args):
        raise BadInput(f"data.mixture: {domain.name}: the documents of {domain.corpus} are pairs")
    return other


def keep(text: TokenStore | Mixture | synthetic.Markov, folder: Path) -> None:
    """Write the tokenizer of a corpus into a folder; the symbols of a synthetic language have none."""
    if isinstance(text, TokenStore | Mixture):
        text.tokenizer.save(folder / KEPT)


def _given(data: ConfigDict, tokenizer: tokenizers.Tokenizer | None, verify: bool) -> TokenStore:
    """The store in the folder `data.corpus_args.path`, whatever the cache holds."""
    if not data.corpus_args.path:
        raise BadInput("data.corpus_args.path: corpus store needs it, the folder of a prepared store")
    store = open_store(Path(data.corpus_args.path).expanduser(), tokenizer, verify)
    if tokenizer is None and store.manifest["tokenizer"] != data.tokenizer:
        raise BadInput(
            f"{store.path}: the tokenizer {data.tokenizer} does not match the manifest ({store.manifest['tokenizer']})"
        )
    return store
