"""The Markov language: its entropy is what theory and samples say, its batches are functions of (seed, k)."""

import numpy as np
import pytest

from lm import tokens
from lm.synthetic import EVAL_TOKENS, Chain, Markov
from training.errors import BadInput


def known(chain: Chain, transitions) -> Chain:
    chain.__dict__["transitions"] = np.array(transitions, float)
    return chain


def surprise(chain: Chain, stretch: np.ndarray) -> np.ndarray:
    """Nats of each symbol given those before, from the second (or third) on."""
    stretch = stretch.astype(int)
    context = stretch[:, :-1] if chain.order == 1 else stretch[:, :-2] * chain.symbols + stretch[:, 1:-1]
    return -np.log(chain.transitions[context, stretch[:, chain.order :]])


def test_entropy_of_a_coin_that_flips():
    chain = known(Chain(2, 1, 0), [[0.9, 0.1], [0.4, 0.6]])
    assert chain.stationary == pytest.approx([0.8, 0.2])
    entropy = lambda p: -p * np.log(p) - (1 - p) * np.log(1 - p)
    assert chain.entropy_rate == pytest.approx(0.8 * entropy(0.1) + 0.2 * entropy(0.4))
    assert chain.best_loss(7) == chain.entropy_rate


def test_entropy_of_order_two():
    """The next symbol repeats the one before last with probability 0.9: pairs are uniform, so the first is a coin."""
    chain = known(Chain(2, 2, 0), [[0.9, 0.1], [0.9, 0.1], [0.1, 0.9], [0.1, 0.9]])
    assert chain.stationary == pytest.approx(np.full(4, 0.25))
    rate = -0.9 * np.log(0.9) - 0.1 * np.log(0.1)
    assert chain.entropy_rate == pytest.approx(rate)
    assert chain.best_loss(10) == pytest.approx((np.log(2) + 9 * rate) / 10)


@pytest.mark.parametrize(("symbols", "order"), [(5, 1), (64, 1), (6, 2), (20, 2)])
def test_samples_have_the_entropy(symbols, order):
    chain = Chain(symbols, order, 3)
    assert chain.transitions.sum(axis=1) == pytest.approx(1) and chain.stationary.sum() == pytest.approx(1)
    assert chain.stationary.min() > 0 and 0.3 < chain.entropy_rate < np.log(symbols)
    nats = surprise(chain, chain.sample(11, np.arange(2000), 65)).mean(axis=1)
    assert nats.mean() == pytest.approx(chain.entropy_rate, abs=4 * nats.std() / np.sqrt(len(nats)))


def test_samples_are_stationary():
    """Every place of a window shows symbols as often as the long run does."""
    chain = Chain(4, 2, 1)
    stretch = chain.sample(5, np.arange(20_000), 6)
    single = chain.stationary.reshape(4, 4).sum(axis=1)
    for place in range(6):
        assert np.bincount(stretch[:, place], minlength=4) / len(stretch) == pytest.approx(single, abs=0.015)


def test_golden():
    assert Chain(16, 1, 0).entropy_rate == pytest.approx(1.779917487890608, rel=1e-12)
    assert Markov(Chain(16, 1, 0)).split("train").batch(0, 0, 1, 7)[0].tolist() == [11, 11, 11, 11, 9, 3, 6, 8]


def test_batches_are_functions_of_seed_and_step():
    train = Markov(Chain(8, 2, 0)).split("train")
    whole = train.batch(1, 5, 8, 32)
    assert whole.shape == (8, 33) and whole.dtype == np.uint16 and whole.max() < 8
    assert np.array_equal(train.batch(1, 5, 8, 32, slice(2, 6)), whole[2:6])
    assert not np.array_equal(train.batch(2, 5, 8, 32), whole) and not np.array_equal(train.batch(1, 6, 8, 32), whole)
    assert not np.array_equal(Markov(Chain(8, 2, 1)).split("train").batch(1, 5, 8, 32), whole)


def test_splits_differ_and_have_the_interface():
    store = Markov(Chain(8, 1, 0))
    train, held = store.split("train"), store.split("eval")
    index = np.arange(4)
    assert not np.array_equal(train.windows(index, 16), held.windows(index, 16))
    assert train.num_tokens is None and held.num_tokens == EVAL_TOKENS
    assert held.eval_sample(None, 64).tolist() == list(range(held.num_windows(64)))
    assert held.document_ids(index, 3).tolist() == [[i] * 3 for i in range(4)]
    assert store.facts()["unique_tokens"] is None and store.token_bytes.tolist() == [1] * 8
    with pytest.raises(IndexError):
        held.windows(np.array([held.num_windows(64)]), 64)


def test_from_a_config():
    data = tokens.defaults()
    data.corpus, data.corpus_args.symbols, data.corpus_args.order = "markov", 12, 2
    store = tokens.prepare(data)
    assert isinstance(store, Markov) and store.vocab_size == tokens.vocab_size(data) == 12 and store.chain.order == 2
    data.corpus_args.paths = "x"
    with pytest.raises(BadInput, match="paths"):
        tokens.prepare(data)


@pytest.mark.parametrize(("symbols", "order"), [(1, 1), (65, 2), (5000, 1), (4, 3), (4, 0)])
def test_refused(symbols, order):
    with pytest.raises(BadInput, match=r"data\.corpus_args"):
        Chain(symbols, order, 0)
