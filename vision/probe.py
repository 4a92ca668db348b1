"""How much frozen features know: a linear classifier on a few images a class, found in closed form."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int

from training.errors import BadInput
from training.permutation import fold, permute
from vision.datasets import Split

PENALTIES = 2.0 ** np.arange(-10, 21, 2)
BATCH = 256

Features = Float[np.ndarray, "images width"]
Labels = Int[np.ndarray, " images"]


def few_shot(
    features: Callable[[np.ndarray], Features], train: Split, test: Split, classes: int, shots: int, seed: int = 0
) -> float:
    """Accuracy on all test images of ridge regression onto the classes, trained on `shots` images of each.

    Args:
      features: of uint8 images [batch, height, width, channels].
      train, test: splits that end.
      classes: numbers to tell apart.
      shots: training images a class.
      seed: names which ones.
    Raises:
      BadInput: a class has fewer images, or the training images never end.
    Source: the few-shot evaluation of Kolesnikov et al. 2019 (arXiv 1912.11370), the penalty chosen by leaving one out.
    """
    if train.size is None:
        raise BadInput(f"{train.name}: never ends; a probe needs a set with every class in it")
    order = permute(np.arange(train.count), train.count, fold(seed, 0))
    labels = train.labels(order)
    chosen = [order[labels == label][:shots] for label in range(classes)]
    short = [label for label, rows in enumerate(chosen) if len(rows) < shots]
    if short or shots < 1:
        raise BadInput(
            f"{train.name}: {shots} shots of a class with {len(chosen[short[0]]) if short else 'many'} images"
        )
    rows = np.concatenate(chosen)
    weights = ridge(_all(features, train, rows), train.labels(rows), classes)
    index = np.arange(test.count)
    return float((weights(_all(features, test, index)) == test.labels(index)).mean())


def ridge(x: Features, labels: Labels, classes: int) -> Callable[[Features], Labels]:
    """Ridge regression of one-hot targets on standardised features, with the penalty of the least leave-one-out error."""
    mean, std = x.mean(axis=0), x.std(axis=0) + 1e-6
    targets = np.eye(classes)[labels]
    base = targets.mean(axis=0)
    targets = targets - base
    u, s, vt = np.linalg.svd((x - mean) / std, full_matrices=False)
    inner = u.T @ targets

    def shrunk(penalty: float) -> np.ndarray:
        return (s**2 / (s**2 + penalty))[:, None]

    def left_out(penalty: float) -> float:
        # The residual of a fit without a row is that of the whole fit over 1 - leverage.
        leverage = np.square(u) @ shrunk(penalty) + 1 / len(x)
        return float(np.square((targets - u @ (shrunk(penalty) * inner)) / np.maximum(1 - leverage, 1e-9)).sum())

    best = min(PENALTIES, key=left_out)
    weights = vt.T @ (shrunk(best) / np.maximum(s, 1e-12)[:, None] * inner)
    return lambda other: np.argmax((other - mean) / std @ weights + base, axis=1)


def _all(features: Callable[[np.ndarray], Features], split: Split, rows: np.ndarray) -> Features:
    parts = []
    for start in range(0, len(rows), BATCH):
        part = rows[start : start + BATCH]
        # Filled up to one size, so that the model is compiled once.
        full = np.concatenate([part, np.repeat(part[:1], BATCH - len(part))])
        parts.append(np.asarray(features(split.images(full)), np.float64)[: len(part)])
    return np.concatenate(parts)
