"""The keyed permutation: a bijection, fixed for ever by (seed, epoch), and even."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from training.permutation import fold, mix, permute, uniforms, words

seeds = st.integers(-(2**70), 2**70)


@settings(deadline=None, max_examples=60)
@given(n=st.integers(1, 3000), seed=seeds, epoch=st.integers(0, 2**40))
def test_bijection(n, seed, epoch):
    assert np.array_equal(np.sort(permute(np.arange(n), n, seed, epoch)), np.arange(n))


@settings(deadline=None, max_examples=60)
@given(n=st.integers(1, 2**62), seed=seeds, data=st.data())
def test_any_subset_agrees_with_its_elements(n, seed, data):
    index = np.array(data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=8, unique=True)))
    together = permute(index, n, seed, 3)
    assert ((together >= 0) & (together < n)).all() and len(set(together)) == len(index)
    assert [int(permute(np.array(i), n, seed, 3)) for i in index] == list(together)
    assert np.array_equal(permute(index.reshape(-1, 1), n, seed, 3)[:, 0], together)


def test_golden():
    """Frozen: a change of these numbers changes what every recorded run was trained on."""
    assert list(permute(np.arange(10), 10, seed=0)) == [8, 5, 6, 9, 7, 0, 4, 3, 1, 2]
    assert list(permute(np.array([0, 1, 10**12]), 10**15, seed=7, epoch=2)) == [
        713249742835699,
        882286726989060,
        866359506783832,
    ]


def test_seeds_and_epochs_give_other_orders():
    n = 1000
    orders = [tuple(permute(np.arange(n), n, s, e)) for s in (0, 1, -1, 2**64 + 5) for e in range(4)]
    assert len(set(orders)) == 16
    matches = [np.mean(np.array(a) == np.array(b)) for i, a in enumerate(orders) for b in orders[:i]]
    assert np.mean(matches) < 0.002  # two random orders agree at 1 place in 1000


def test_small_permutations_are_all_met_equally_often():
    """Over seeds, each of the 24 permutations of four things comes 200 times, give or take."""
    counts = {}
    for seed in range(4800):
        key = tuple(permute(np.arange(4), 4, seed))
        counts[key] = counts.get(key, 0) + 1
    assert len(counts) == 24
    assert sum((c - 200) ** 2 / 200 for c in counts.values()) < 60  # chi-square with 23 degrees of freedom


@pytest.mark.parametrize("n", [1000, 1024, 1025])
def test_places_are_uniform_and_neighbours_part(n):
    images = np.array([permute(np.arange(4), n, seed) for seed in range(3000)])
    histogram = np.stack([np.histogram(images[:, j], bins=20, range=(0, n))[0] for j in range(4)])
    assert (np.abs(histogram - 150) < 65).all()
    steps = np.diff(permute(np.arange(n), n, 5))
    assert np.mean(np.abs(steps)) == pytest.approx(n / 3, rel=0.1)  # the mean distance of two random places
    assert np.mean(steps == 1) < 0.01


def test_out_of_range_is_refused():
    for index, n in [([10], 10), ([-1], 10), ([0], 0), ([0], 2**62 + 1)]:
        with pytest.raises(ValueError):
            permute(np.array(index), n, 0)
    assert permute(np.array([], int), 5, 0).shape == (0,)


def test_fold_and_mix():
    assert fold(1, 2) != fold(2, 1) and fold(0) != fold(0, 0) and fold(-1) != fold(1)
    x = np.arange(10_000, dtype=np.uint64)
    assert len(np.unique(mix(x))) == len(x)
    ones = np.unpackbits(mix(x).view(np.uint8)).mean()
    assert ones == pytest.approx(0.5, abs=0.005)


def test_words_and_uniforms_are_functions_of_key_row_and_place():
    rows = np.arange(2000, dtype=np.uint64)
    drawn = words(fold(1), rows, 3)
    assert np.array_equal(words(fold(1), rows[5:9], 3), drawn[5:9]) and np.array_equal(
        words(fold(1), rows, 2), drawn[:, :2]
    )
    assert not (words(fold(2), rows, 3) == drawn).any() and len(np.unique(drawn)) == drawn.size
    chances = uniforms(fold(1), rows, 3)
    assert chances.min() >= 0 and chances.max() < 1
    assert chances.mean(axis=0) == pytest.approx(0.5, abs=0.03) and chances.std() == pytest.approx(12**-0.5, rel=0.02)
    assert np.corrcoef(chances.T) == pytest.approx(np.eye(3), abs=0.1)
