"""The best mixture of domains, against truths whose optimum a grid finds."""

import itertools

import numpy as np
import pandas as pd
import pytest

import laws

TRUTH = {"a": (1.0, 1.0, -2.0, -0.3), "b": (1.2, 0.7, 0.4, -1.6), "c": (0.8, 1.1, 1.0, 0.9)}  # c, k, t_1, t_2


def loss(name, first, second):
    c, k, t_1, t_2 = TRUTH[name]
    return c + k * np.exp(t_1 * first + t_2 * second)


@pytest.fixture(scope="module")
def fits():
    simplex = [(i / 6, j / 6) for i, j in itertools.product(range(7), repeat=2) if i + j <= 6]
    runs = pd.DataFrame(simplex, columns=["r1", "r2"])
    rng = np.random.default_rng(0)
    columns = {"share_1": "r1", "share_2": "r2"}
    for name in TRUTH:
        runs[name] = loss(name, runs.r1, runs.r2) * np.exp(5e-4 * rng.standard_normal(len(runs)))
    return [laws.load(runs, loss=name, columns=columns).fit("mixing_3", resamples=20) for name in TRUTH]


@pytest.mark.parametrize("weights", [(1, 1, 1), (3, 1, 1), (0, 0, 1)])
def test_the_best_mixture_is_that_of_a_grid_over_the_truth(fits, weights):
    first, second = (axis.ravel() for axis in np.meshgrid(*[np.linspace(0, 1, 401)] * 2))
    inside = first + second <= 1 + 1e-12
    first, second = first[inside], second[inside]
    mean = sum(w * loss(name, first, second) for w, name in zip(weights, TRUTH, strict=True)) / sum(weights)
    best = laws.best_mixture(fits, weights)
    at = mean.argmin()
    truth = (first[at], second[at], 1 - first[at] - second[at])
    assert best.shares == pytest.approx(truth, abs=0.02) and sum(best.shares) == pytest.approx(1)
    assert best.loss == pytest.approx(mean[at], rel=2e-3)
    assert all(
        low - 0.02 <= share <= high + 0.02 for share, (low, high) in zip(truth, best.share_intervals, strict=True)
    )
    assert best.losses == pytest.approx([loss(name, *truth[:2]) for name in TRUTH], rel=5e-3)


def test_fits_and_weights_that_make_no_mixture_are_refused(fits):
    with pytest.raises(laws.InputError, match="mixing_2"):
        laws.best_mixture(fits[:2])
    with pytest.raises(laws.InputError, match="3 numbers"):
        laws.best_mixture(fits, (1, 2))
    with pytest.raises(laws.InputError, match="not all zero"):
        laws.best_mixture(fits, (0, 0, 0))
