"""What is said of a classifier over a whole set, from its logits: on the host, in float64."""

import numpy as np
from jaxtyping import Float, Int

from training.types import Record

METRICS = (  # of a summary
    *("loss", "loss_sem", "accuracy", "error", "top5", "precision", "recall", "f1"),
    "calibration_error",
)
BINS = 15  # of confidence, for the calibration error (Guo et al. 2017)

Logits = Float[np.ndarray, "examples classes"]
Labels = Int[np.ndarray, " examples"]


def log_probabilities(logits: Logits) -> Float[np.ndarray, "examples classes"]:
    """Their log-softmax."""
    centred = np.asarray(logits, np.float64) - np.max(logits, axis=1, keepdims=True)
    return centred - np.log(np.exp(centred).sum(axis=1, keepdims=True))


def summary(logits: Logits, labels: Labels) -> dict[str, float]:
    """Entries of a record: cross-entropy in nats with its standard error, top-1 and top-5 accuracy, error, means over
    classes of precision, recall and F1, and the expected calibration error."""
    logp = log_probabilities(logits)
    nats = -logp[np.arange(len(labels)), labels]
    right = logp.argmax(axis=1) == labels
    classes = per_class(confusion(logits, labels))
    return {
        "loss": float(nats.mean()),
        "loss_sem": float(nats.std(ddof=1) / np.sqrt(len(nats))) if len(nats) > 1 else 0.0,
        "accuracy": float(right.mean()),
        "error": float(1 - right.mean()),
        "top5": float(top(logp, labels, 5).mean()),
        **{name: float(np.mean(values)) for name, values in classes.items() if name != "support"},
        "calibration_error": calibration_error(logp, right),
    }


def top(scores: Float[np.ndarray, "examples classes"], labels: Labels, k: int) -> np.ndarray:
    """Whether the label is among the k highest scores of each example; of equal scores, the lower class goes first."""
    own = scores[np.arange(len(labels)), labels][:, None]
    before = np.arange(scores.shape[1]) < labels[:, None]
    return ((scores > own) | ((scores == own) & before)).sum(axis=1) < k


def confusion(logits: Logits, labels: Labels) -> Int[np.ndarray, "classes classes"]:
    """Numbers of examples by label (rows) and predicted class (columns)."""
    n = logits.shape[1]
    return np.bincount(labels * n + np.argmax(logits, axis=1), minlength=n * n).reshape(n, n)


def per_class(table: Int[np.ndarray, "classes classes"]) -> dict[str, Float[np.ndarray, " classes"]]:
    """Precision, recall and F1 of every class, zero where undefined, and how many examples it has."""
    hits, support, predicted = np.diag(table), table.sum(axis=1), table.sum(axis=0)

    def share(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.divide(a, b, out=np.zeros(len(a)), where=b > 0)

    return {
        "precision": share(hits, predicted),
        "recall": share(hits, support),
        "f1": share(2 * hits, support + predicted),
        "support": support.astype(float),
    }


def calibration_error(logp: Float[np.ndarray, "examples classes"], right: np.ndarray) -> float:
    """Mean distance of confidence and accuracy over equal bins, weighted by examples (Guo et al. 2017, equation 3)."""
    confidence = np.exp(logp.max(axis=1))
    place = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    gap = np.bincount(place, right.astype(float), BINS) - np.bincount(place, confidence, BINS)
    return float(np.abs(gap).sum() / len(right))


def details(logits: Logits, labels: Labels, names: tuple[str, ...]) -> Record:
    """The summary, with precision, recall and F1 of every class and the confusion matrix."""
    table = confusion(logits, labels)
    rows = {name: values.tolist() for name, values in per_class(table).items()}
    classes = [{"class": name} | {key: rows[key][i] for key in rows} for i, name in enumerate(names)]
    return summary(logits, labels) | {"classes": classes, "confusion": table.tolist()}
