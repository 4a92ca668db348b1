"""A stream of tokens seen as windows: batches by a keyed permutation, segments, and a fixed evaluation sample."""

import abc

import numpy as np
from jaxtyping import Bool, Int, Integer, UInt

from training import permutation
from training.errors import BadInput

Rows = slice | Int[np.ndarray, " rows"]


class Windows(abc.ABC):
    """A stream of tokens, seen as windows.

    Window i of length T covers tokens i*T to i*T + T, so that every token but the first is predicted once. The last,
    too few for a window, are left out.
    """

    name: str  # for messages
    num_tokens: int | None  # None where the stream never ends
    num_documents: int | None  # None where there are none
    num_bytes: int | None  # raw bytes of the text
    byte_ratio: float = 1.0  # raw bytes of the text over the bytes that its tokens stand for

    def num_windows(self, seq_len: int) -> int:
        """Windows in the stream.

        Args:
          seq_len: predicted tokens a window.
        """
        assert self.num_tokens is not None
        return max(self.num_tokens - 1, 0) // seq_len

    def need(self, batch_size: int, seq_len: int) -> None:
        """Refuse a stream that holds less than one batch.

        Raises:
          BadInput: it does.
        """
        n = self.num_windows(seq_len)
        if n < batch_size:
            raise BadInput(
                f"corpus {self.name}: {self.num_tokens:,} tokens are {n:,} windows of {seq_len}, "
                f"less than one batch of {batch_size}"
            )

    def check(self, indices: Int[np.ndarray, " rows"], seq_len: int) -> None:
        """Raise IndexError for a window that is not in the stream."""
        if len(indices) and (np.min(indices) < 0 or np.max(indices) >= self.num_windows(seq_len)):
            raise IndexError(f"{self.name}: a window outside [0, {self.num_windows(seq_len)})")

    @abc.abstractmethod
    def windows(self, indices: Int[np.ndarray, " rows"], seq_len: int) -> UInt[np.ndarray, "rows {seq_len}+1"]:
        """The tokens of windows: the first seq_len are inputs, the last seq_len are predicted.

        Args:
          indices: windows, each in [0, num_windows).
          seq_len: predicted tokens a window.
        """

    @abc.abstractmethod
    def document_ids(self, indices: Int[np.ndarray, " rows"], seq_len: int) -> Int[np.ndarray, "rows {seq_len}"]:
        """The document of each predicted token of windows, counted from the start of the stream."""

    def by_domain(
        self, indices: Int[np.ndarray, " rows"], seq_len: int
    ) -> dict[str, tuple[Bool[np.ndarray, " rows"], float]]:
        """Which windows are of each domain, and its `byte_ratio`; empty where the stream is of one corpus.

        Args:
          indices: windows.
          seq_len: predicted tokens a window.
        """
        del indices, seq_len
        return {}

    def batch(
        self, seed: int, k: int, batch_size: int, seq_len: int, rows: Rows = slice(None)
    ) -> UInt[np.ndarray, "rows {seq_len}+1"]:
        """Rows of global batch k; see `training.permutation.batch`.

        Args:
          seed: names the order of the data.
          k: global step, from 0.
          batch_size: windows a global batch.
          seq_len: predicted tokens a window.
          rows: which rows of the batch.

        Raises:
          BadInput: the stream holds less than one batch.
        """
        self.need(batch_size, seq_len)
        return self.windows(permutation.batch(seed, k, batch_size, self.num_windows(seq_len), rows), seq_len)

    def streams(
        self, seed: int, k: int, batch_size: int, seq_len: int, rows: Rows = slice(None)
    ) -> tuple[UInt[np.ndarray, "rows {seq_len}+1"], Bool[np.ndarray, " rows"]]:
        """Rows of global batch k, each the window after the same row's of batch k - 1, and which of them are not.

        Each row reads a stretch of its own, all together every window once an epoch but for fewer than `batch_size`; where
        the stretches begin is drawn anew each epoch. Arguments and errors as in `batch`.

        Raises:
          BadInput: the stream holds less than one batch, or never ends.
        """
        if self.num_tokens is None:
            raise BadInput(f"corpus {self.name}: a stream without end has no order to carry a state along")
        self.need(batch_size, seq_len)
        n = self.num_windows(seq_len)
        epoch, place = divmod(k, n // batch_size)
        first = int(permutation.permute(np.zeros(1, np.int64), n, seed, epoch)[0])
        row = np.arange(batch_size, dtype=np.int64)[rows]
        index = (first + row * (n // batch_size) + place) % n
        return self.windows(index, seq_len), (index == 0) | (place == 0)

    def eval_sample(self, tokens: int | None, seq_len: int) -> Int[np.ndarray, " rows"]:
        """Windows at even distances through the stream, and so across its documents: always the same ones.

        Args:
          tokens: predicted tokens in all, rounded down to whole windows; None for every window.
          seq_len: predicted tokens a window.

        Raises:
          BadInput: the stream has no window, or `tokens` asks for less than one.
        """
        n = self.num_windows(seq_len)
        wanted = n if tokens is None else min(tokens // seq_len, n)
        if wanted < 1:
            held = tokens if n else self.num_tokens
            raise BadInput(f"corpus {self.name}: no window of {seq_len} tokens in a sample of {held:,} tokens")
        return (2 * np.arange(wanted, dtype=np.int64) + 1) * n // (2 * wanted)


def segments(
    tokens: Integer[np.ndarray, "*batch length"], end: int
) -> tuple[Int[np.ndarray, "*batch length"], Int[np.ndarray, "*batch length"]]:
    """The document that each token of a window belongs to, counted from 0, and its position in it.

    The end symbol belongs to the document that it ends; a document cut by the window's left edge counts from the edge.

    Args:
      tokens: symbols, windows in the last axis.
      end: the end-of-document symbol.

    Returns:
      segment ids and positions, int32.
    """
    after_end: Bool[np.ndarray, "*batch length"] = np.zeros(tokens.shape, bool)
    after_end[..., 1:] = tokens[..., :-1] == end
    place = np.arange(tokens.shape[-1], dtype=np.int32)
    starts = np.maximum.accumulate(np.where(after_end, place, 0), axis=-1)
    return np.cumsum(after_end, axis=-1, dtype=np.int32), (place - starts).astype(np.int32)
