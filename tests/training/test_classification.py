"""What is said of a classifier, against scikit-learn and against definitions."""

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis.extra import numpy as npst

from training import classification as metrics


@pytest.fixture(scope="module")
def scored():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 300)
    labels[labels == 3] = 2  # a class without an image
    return rng.normal(size=(300, 4)) + 1.5 * np.eye(4)[labels], labels


def test_scikit_learn_says_the_same(scored):
    learn = pytest.importorskip("sklearn.metrics")
    logits, labels = scored
    found = metrics.details(logits, labels, ("a", "b", "c", "d"))
    guess = logits.argmax(1)
    assert found["loss"] == pytest.approx(
        learn.log_loss(labels, np.exp(metrics.log_probabilities(logits)), labels=range(4))
    )
    assert found["accuracy"] == pytest.approx(learn.accuracy_score(labels, guess)) == 1 - found["error"]
    assert found["confusion"] == learn.confusion_matrix(labels, guess, labels=range(4)).tolist()
    precision, recall, f1, support = learn.precision_recall_fscore_support(
        labels, guess, labels=range(4), zero_division=0
    )
    for name, values in {"precision": precision, "recall": recall, "f1": f1, "support": support}.items():
        assert [row[name] for row in found["classes"]] == pytest.approx(list(values))
    assert found["f1"] == pytest.approx(f1.mean())
    assert metrics.top(logits, labels, 2).mean() == pytest.approx(
        learn.top_k_accuracy_score(labels, logits, k=2, labels=range(4))
    )


def test_the_standard_error_is_that_of_the_mean(scored):
    logits, labels = scored
    nats = -metrics.log_probabilities(logits)[np.arange(300), labels]
    assert metrics.summary(logits, labels)["loss_sem"] == pytest.approx(nats.std(ddof=1) / 300**0.5)


@hypothesis.given(npst.arrays(float, (20, 3), elements=st.floats(-800, 800)), st.integers(-500, 500))
def test_probabilities_sum_to_one_whatever_is_added(logits, shift):
    logp = metrics.log_probabilities(logits)
    np.testing.assert_allclose(np.exp(logp).sum(1), 1)
    np.testing.assert_allclose(metrics.log_probabilities(logits + shift), logp, atol=1e-9)


def test_calibration():
    chance = np.full((1000, 2), 0.5)
    chance[:, 0], chance[:, 1] = 0.8, 0.2
    logp, right = np.log(chance), np.arange(1000) < 800
    assert metrics.calibration_error(logp, right) == pytest.approx(0, abs=1e-12)
    assert metrics.calibration_error(logp, np.ones(1000, bool)) == pytest.approx(0.2)
