"""A keyed permutation of [0, n): shuffled order of any length without a table, so that resuming costs nothing."""

import functools
import math

import numpy as np
from jaxtyping import Float, Int, UInt64

ROUNDS = 6  # an even number: each coordinate is moved three times
_MASK = (1 << 64) - 1
_ODD = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2**64 over the golden ratio
_SHIFTS = (np.uint64(30), np.uint64(27), np.uint64(31))


def mix(x: UInt64[np.ndarray, "..."]) -> UInt64[np.ndarray, "..."]:
    """A bijection of the 64-bit integers whose output looks random, even of a counter.

    Args:
        x: integers, as uint64.

    Source: the finalizer of SplitMix64 (Steele, Lea, Flood 2014, Fast splittable pseudorandom number generators).
    """
    x = (x ^ (x >> _SHIFTS[0])) * _ODD[0]
    x = (x ^ (x >> _SHIFTS[1])) * _ODD[1]
    return x ^ (x >> _SHIFTS[2])


def fold(*words: int) -> int:
    """One 64-bit key from several integers of any sign; the order matters.

    Args:
        words: for example a seed, a purpose and an epoch.
    """
    key = np.zeros(1, np.uint64)  # an array, since numpy warns of overflow in scalars alone
    for word in words:
        key = mix((key + _GOLDEN) ^ np.uint64(word & _MASK))
    return int(key[0])


def words(key: int, rows: UInt64[np.ndarray, " rows"], count: int) -> UInt64[np.ndarray, "rows {count}"]:
    """Random 64-bit words that (key, row, place) decides.

    Args:
        key: from `fold`.
        rows: names of the rows.
        count: words a row.
    """
    starts = mix(rows + np.uint64(key))
    places = np.arange(1, count + 1, dtype=np.uint64) * _GOLDEN
    return mix(starts[:, None] + places)


def uniforms(key: int, rows: UInt64[np.ndarray, " rows"], count: int) -> Float[np.ndarray, "rows {count}"]:
    """Numbers in [0, 1) that (key, row, place) decides; arguments as of `words`."""
    return (words(key, rows, count) >> np.uint64(11)).astype(np.float64) * 2.0**-53


@functools.lru_cache(maxsize=1024)
def _round_keys(seed: int, epoch: int) -> UInt64[np.ndarray, " rounds"]:
    return np.array([fold(seed, epoch, r) for r in range(ROUNDS)], np.uint64)


def permute(index: Int[np.ndarray, "..."], n: int, seed: int, epoch: int = 0) -> Int[np.ndarray, "..."]:
    """The places that a permutation of [0, n), named by (seed, epoch), gives to `index`.

    A Feistel network over a rectangle of rows x columns that just covers n, walked until it lands inside: one
    walk nearly always, and memory independent of n.

    Args:
        index: integers in [0, n), any shape.
        n: length of the permuted range, 1 to 2**62.
        seed: names the family of permutations.
        epoch: names one permutation of the family.

    Raises:
        ValueError: n or an index is out of range.

    Source: Black and Rogaway 2002, Ciphers with arbitrary finite domains (generalized
    Feistel, cycle walking).
    """
    if not 1 <= n <= 1 << 62:
        raise ValueError(f"a permutation needs a length in [1, 2**62], got {n}")
    index = np.asarray(index)
    if index.size and not (index.min() >= 0 and index.max() < n):
        raise ValueError(f"an index is outside [0, {n})")
    keys = _round_keys(seed, epoch)
    out = _network(index.astype(np.uint64).ravel(), n, keys)
    outside = np.flatnonzero(out >= n)
    while outside.size:
        out[outside] = _network(out[outside], n, keys)
        outside = outside[out[outside] >= n]
    return out.astype(np.int64).reshape(index.shape)


def batch(
    seed: int, k: int, batch_size: int, n: int, rows: slice | Int[np.ndarray, " rows"] = slice(None)
) -> Int[np.ndarray, " rows"]:
    """Which of n examples are in rows of global batch k: a pure function of (seed, k), whoever asks for whichever rows.

    The batches walk through a permutation of the examples that is drawn anew each epoch.

    Args:
        seed: names the order of the data.
        k: global step, from 0.
        batch_size: examples a global batch.
        n: examples in all.
        rows: which rows of the batch.
    """
    epochs, index = np.divmod(k * batch_size + np.arange(batch_size, dtype=np.int64)[rows], n)
    for epoch in np.unique(epochs):
        of_epoch = epochs == epoch
        index[of_epoch] = permute(index[of_epoch], n, seed, int(epoch))
    return index


def _network(x: UInt64[np.ndarray, " m"], n: int, keys: UInt64[np.ndarray, " rounds"]) -> UInt64[np.ndarray, " m"]:
    """Alternately shifts the row by a keyed function of the column and the column by one of the row: a bijection."""
    side = math.isqrt(n - 1) + 1
    columns, rows = np.uint64(side), np.uint64(-(-n // side))
    row, column = np.divmod(x, columns)
    for even, odd in keys.reshape(-1, 2):
        row = (row + mix(column + even) % rows) % rows
        column = (column + mix(row + odd) % columns) % columns
    return row * columns + column
