"""Mixtures: shares that are exact over time, domains that walk through their own epochs, losses of each and of all."""

import functools

import flax.linen as nn
import jax
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from ml_collections import ConfigDict

from lm import mixture, task as family
from lm.token_windows import Windows
from training import config as configs, evaluation, mesh as meshes
from training.errors import BadInput

PERIOD = mixture.PERIOD


class Numbered(Windows):
    """A stream whose window i is filled with first + i."""

    def __init__(self, first, count):
        self.name, self.num_tokens, self.num_documents, self.num_bytes = "n", count * 4 + 1, count, count * 4
        self.first = first

    def windows(self, indices, seq_len):
        return np.repeat(self.first + np.asarray(indices)[:, None], seq_len + 1, 1).astype(np.uint16)

    def document_ids(self, indices, seq_len):
        return np.repeat(np.asarray(indices)[:, None], seq_len, 1)


def mixed(weights, sizes):
    parts = tuple(Numbered(1000 * j, size) for j, size in enumerate(sizes))
    names = tuple(f"d{j}" for j in range(len(sizes)))
    return mixture.MixedWindows("m", names, parts, tuple(mixture.quotas(weights).tolist()))


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(0.01, 1), min_size=1, max_size=5))
def test_shares_are_exact_over_a_period_and_near_within_every_stretch(weights):
    counts = mixture.quotas(weights)
    assert counts.sum() == PERIOD and np.abs(counts - PERIOD * np.array(weights) / sum(weights)).max() < 1
    domains, before = mixture.sequence(tuple(counts.tolist()))
    taken = np.cumsum(domains[:, None] == np.arange(len(counts)), axis=0)
    assert (taken[-1] == counts).all()
    expected = np.arange(1, PERIOD + 1)[:, None] * counts / PERIOD
    assert np.abs(taken - expected).max() < 1.0 + len(counts) / 4
    assert all(before[domains == j].tolist() == list(range(counts[j])) for j in range(len(counts)))


def test_batches_are_pure_functions_of_their_step_and_every_domain_has_its_own_epochs():
    stream, batch = mixed((0.5, 0.3, 0.2), (50, 7, 40)), 8
    run = [stream.batch(3, k, batch, 4)[:, 0] for k in range(1100)]  # over the end of a period
    again = stream.batch(3, 777, batch, 4, np.array([5, 2]))[:, 0]
    assert again.tolist() == run[777][[5, 2]].tolist()
    windows = np.concatenate(run)
    for j, size in enumerate((50, 7, 40)):
        own = windows[windows // 1000 == j] - 1000 * j
        epochs = own[: len(own) // size * size].reshape(-1, size)
        assert len(own) == pytest.approx((0.5, 0.3, 0.2)[j] * len(windows), abs=3)
        assert (np.sort(epochs, 1) == np.arange(size)).all(), "every window once an epoch"
        assert (epochs[0] != epochs[1]).any()
    # One epoch is over where the first domain begins anew: 7 windows of 0.3.
    assert stream.num_windows(4) == 7 * PERIOD // int(mixture.quotas((0.5, 0.3, 0.2))[1]) == 23
    other = mixed((0.5, 0.3, 0.2), (50, 7, 40)).batch(4, 0, batch, 4)
    assert (other[:, 0] != run[0]).any()


def test_a_domain_without_weight_is_evaluated_and_never_trained_on():
    stream = mixed((1, 0), (5, 9))
    assert set((np.concatenate([stream.batch(0, k, 8, 4)[:, 0] for k in range(20)]) // 1000).tolist()) == {0}
    sample = stream.eval_sample(6 * 4, 4)
    assert sorted((stream.windows(sample, 4)[:, 0] // 1000).tolist()) == [0, 0, 0, 1, 1, 1]
    assert stream.document_ids(sample, 4)[:, 0].tolist() == sample.tolist()


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """Two folders of documents, of letters and of digits."""
    folder, rng = tmp_path_factory.mktemp("text"), np.random.default_rng(0)
    for name, words in {"a": ["law", "loss", "née"], "b": ["1", "23", "456"]}.items():
        (folder / name).mkdir()
        for i in range(30):
            (folder / name / f"{i:02}.txt").write_text(" ".join(rng.choice(words, 90)))
    return folder


def config(text, entries, **keys):
    data = {
        "corpus": "mixture",
        "mixture": entries,
        "seq_len": 16,
        "eval_fraction": 0.3,
        "cache_dir": str(text / "cache"),
    }
    run = {"task": "lm", "model": {"width": 8, "depth": 2, "heads": 2}, "data": data, "batch_size": 8}
    run |= {"duration": {"steps": 3}, "evaluation": {"batch_size": 8, "tokens": 640}}
    return configs.complete(ConfigDict(run | keys))


def entries(text, a=0.75, b=0.25):
    return (("letters", a, f"files paths={text}/a/*.txt"), ("digits", b, f"files paths={text}/b/*.txt"))


@functools.lru_cache
def drawn(model):
    init = jax.jit(lambda key: nn.meta.unbox(model.init(key, {"init_scale": 1.0}))["params"])
    return init(jax.random.key(0))


def test_the_loss_is_that_of_each_domain_and_of_both_on_one_set_whatever_the_weights(text):
    results = []
    for weights in ((0.75, 0.25), (1, 3)):
        task = family.build(configs.resolve(config(text, entries(text, *weights))))
        one = meshes.build({"data": 1, "fsdp": 1, "tensor": 1})
        results.append((evaluation.evaluate(task, drawn(task.model), {}, one), task.facts()))
    (first, facts), (second, other) = results
    assert first["loss"] == pytest.approx((first["loss/letters"] + first["loss/digits"]) / 2, rel=1e-6)
    assert first["loss/letters"] != first["loss/digits"] and first["bits_per_byte/digits"] > 0
    assert second == first, "no weight enters the evaluation"
    assert (facts["weight/letters"], facts["weight/digits"]) == (0.75, 0.25) and other["weight/letters"] == 0.25
    assert facts["corpus"] == "letters+digits" and facts["data_hash"] == other["data_hash"]
    rows = task.batch(0, slice(None))["tokens"]
    digits = sum(bytes(row.astype(np.uint8)).translate(None, b"0123456789 \0") == b"" for row in rows)
    assert digits == 6, "three quarters of eight"


@pytest.mark.parametrize(
    ("mixture_of", "message"),
    [
        (((("a", 1.0)), ("a", 2.0)), "named twice"),
        ((("stdlib", -1.0),), "weight of stdlib"),
        ((("stdlib", 0.0),), "all weights are zero"),
        ((("stdlib", 1.0), ("bible", 1e-6)), "below 1/4096"),
        ((("x", 1.0, "markov"),), "x: wants a corpus"),
        ((("x", 1.0, "files paths"),), "x: wants a corpus"),
        (("stdlib",), "wants"),
        ((), "goes with"),
    ],
)
def test_what_is_no_mixture_is_refused_in_one_line(text, mixture_of, message):
    with pytest.raises(BadInput, match=message):
        configs.resolve(config(text, mixture_of))


@pytest.mark.parametrize(
    ("entry", "message"), [("wordnet", "are pairs"), ("files path_s=x", "unknown argument 'path_s'")]
)
def test_a_corpus_that_cannot_be_mixed_is_named(text, entry, message):
    with pytest.raises(BadInput, match=message):
        family.build(configs.resolve(config(text, (*entries(text), ("x", 1.0, entry)))))


def test_models_that_do_not_continue_a_text_read_no_mixture(text):
    with pytest.raises(BadInput, match=r"data\.mixture: encoder"):
        configs.resolve(config(text, entries(text), model={"name": "encoder", "width": 8, "depth": 2}))
