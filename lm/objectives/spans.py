"""Span corruption: short spans of a window are cut out, and predicted from the rest (Raffel et al. 2019, 3.1.4 and 3.3.4).

In place of span i the source holds sentinel i; the target is sentinel 0, what stood there, sentinel 1, and so on, and one
sentinel more at its end. Of every window as many tokens are cut, in as many spans, so that all have the same lengths. The
spans are a function of (seed, k), and for the evaluation of the window alone.
"""

from collections.abc import Iterable

import numpy as np
from jaxtyping import Int, Integer
from ml_collections import ConfigDict

from lm import models
from lm.loss import by_document
from lm.objectives.pairs import PairModel, network, scalars, unsegmented
from lm.objectives.stream import StreamTask, available
from training.cost import Cost
from training.errors import BadInput
from training.permutation import fold, uniforms
from training.task import Arrays
from training.types import Outputs

__all__ = ["SpanTask", "available", "build", "corrupt", "cost", "network"]

METRICS = ("loss", "loss_sem")
FRACTION, MEAN = 0.15, 3  # of the tokens, those that are cut; tokens of a span


def cost(config: ConfigDict) -> Cost:
    """Parameters and FLOPs of a window."""
    cut, spans = counts(config)
    return models.cost(config.model.name, network(config), config.data.seq_len - cut + spans, cut + spans + 1)


def build(config: ConfigDict) -> "SpanTask":
    """The task of a resolved config."""
    return SpanTask(config)


def counts(config: ConfigDict) -> tuple[int, int]:
    """Tokens that are cut from a window, and the spans they make.

    Raises:
      BadInput: a window is too short, or there are too few sentinels for its spans.
    """
    length, sentinels = config.data.seq_len, config.model.sentinels
    cut = max(1, round(FRACTION * length))
    spans = max(1, round(cut / MEAN))
    if length - cut < spans:
        raise BadInput(f"data.seq_len: no span can be cut from a window of {length}")
    if sentinels < spans + 1:
        raise BadInput(f"model.sentinels: {spans} spans of a window of {length} want {spans + 1}, got {sentinels}")
    unsegmented(config)
    return cut, spans


def corrupt(
    read: Integer[np.ndarray, "rows length"],
    key: int,
    numbers: Int[np.ndarray, " rows"],
    cut: int,
    spans: int,
    sentinel: int,
) -> Arrays:
    """Windows with spans cut out ("source", length - cut + spans), these spans ("predicted", cut + spans + 1), and the
    places in the window that the latter come from ("places", a sentinel's that of what follows it): of a row, a function of
    (key, its number) alone. Windows begin with what is left and end with a span; cuts are spread evenly over all such.

    Args:
      read: the windows.
      key: names the draw.
      numbers: of the rows.
      cut: tokens of each that are cut, at least as many as spans.
      spans: that they make; at most the tokens that are left.
      sentinel: the first one.
    """
    rows, length = read.shape
    drawn = uniforms(key, np.asarray(numbers, np.uint64), length - 2)
    left, gone = _parts(drawn[:, cut - 1 :], length - cut, spans), _parts(drawn[:, : cut - 1], cut, spans)
    # The first place of every span, and how many spans have begun at each place.
    begins = np.cumsum(left, axis=1) + np.cumsum(gone, axis=1) - gone
    first = np.zeros((rows, length), bool)
    np.put_along_axis(first, begins, True, axis=1)
    begun = np.cumsum(first, axis=1)
    ends = np.zeros((rows, length + 1), np.int64)
    np.put_along_axis(ends, begins + gone, 1, axis=1)
    missing = begun > np.cumsum(ends[:, :-1], axis=1)
    source = np.where(first, sentinel + begun - 1, read)[~missing | first].reshape(rows, -1)
    # A token of a span stands behind all that was cut before it, and behind the sentinels up to its own.
    inside = np.nonzero(missing)[1].reshape(rows, cut)
    span = np.take_along_axis(begun, inside, axis=1) - 1
    predicted = np.full((rows, cut + spans + 1), sentinel + spans)
    places = np.full_like(predicted, length - 1)
    marks = np.cumsum(gone, axis=1) - gone + np.arange(spans)
    tokens = np.arange(cut) + span + 1
    np.put_along_axis(predicted, marks, sentinel + np.arange(spans)[None].repeat(rows, 0), axis=1)
    np.put_along_axis(places, marks, begins, axis=1)
    np.put_along_axis(predicted, tokens, np.take_along_axis(read, inside, axis=1), axis=1)
    np.put_along_axis(places, tokens, inside, axis=1)
    return {"source": source.astype(np.int32), "predicted": predicted.astype(np.int32), "places": places}


def _parts(drawn: np.ndarray, total: int, parts: int) -> Int[np.ndarray, "rows parts"]:
    """Positive integers that add up to a total, every such tuple as likely; `drawn` are total - 1 uniforms a row."""
    chosen = np.sort(np.argsort(drawn, axis=1)[:, : parts - 1], axis=1) + 1
    return np.diff(chosen, axis=1, prepend=0, append=total)


class SpanTask(StreamTask):
    """One resolved run of span corruption; documents in a window are not kept apart."""

    model: PairModel

    def __init__(self, config: ConfigDict):
        super().__init__(config)
        self._counts, self.end = counts(config), None
        self.model = PairModel(network(config), self.text.end, config.model.label_smoothing > 0, writes=False)

    def hyper(self) -> dict[str, float]:
        """Scalars of the model that never recompile it."""
        return scalars(self.config)

    def batch(self, k: int, rows: slice) -> Arrays:
        """Rows of global batch k of the training windows; the same window is cut otherwise in every epoch."""
        size, length = self.config.batch_size, self.config.data.seq_len
        numbers = np.arange(k * size, (k + 1) * size)[rows]
        return self._arrays(self.train.batch(self.seed, k, size, length, rows), fold(self.seed, 1), numbers)

    def shown(self, numbers: np.ndarray, windows: np.ndarray) -> Arrays:
        """The windows as they are cut in every evaluation of every run."""
        return self._arrays(windows, fold(0, 2), numbers)

    def summarize(self, outputs: Iterable[Outputs], final: bool = True) -> dict[str, float | int | str | None]:
        """Loss in nats a token of the targets, sentinels among them, and its standard error by document."""
        del final
        nats = np.concatenate([np.asarray(part["nats"], np.float64) for part in outputs])[: len(self.sample)]
        windows = self.eval.windows(self.sample, self.config.data.seq_len)
        places = self._corrupted(windows, fold(0, 2), self.sample)["places"]
        return {**by_document(nats, self.documents(places)), "eval_set": self.eval.name}

    def _corrupted(self, windows: np.ndarray, key: int, numbers: np.ndarray) -> Arrays:
        return corrupt(windows[:, :-1], key, numbers, *self._counts, self.model.network.vocab_size)

    def _arrays(self, windows: np.ndarray, key: int, numbers: np.ndarray) -> Arrays:
        made = self._corrupted(windows, key, numbers)
        begin = np.full_like(made["predicted"][:, :1], self.text.end)
        read = np.concatenate([begin, made["predicted"][:, :-1]], axis=1)
        return {"source": made["source"], "read": read, "predicted": made["predicted"]}
